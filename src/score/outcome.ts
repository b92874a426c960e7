/** Outcomes of judging, and their conversion from a verifier's return value. */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { policyTokens, type Trajectory } from "../rollout/Trajectory.ts"

export interface Scored {
  readonly _tag: "Scored"
  readonly score: number
  readonly reason?: string
  readonly metrics?: Readonly<Record<string, number>>
  /** Parts of the score: one number per policy token, summing to `score`. Token-level advantages use them. */
  readonly tokenScores?: ReadonlyArray<number>
}

/**
 * Reason why there is no score.
 *
 * `timeout`: the verifier's deadline passed. `crash`: its worker died. `error`: it threw or failed. `verdict`: it
 * returned an invalid verdict, such as NaN. `declared`: it said so itself.
 */
export type UnscorableKind = "timeout" | "crash" | "error" | "verdict" | "declared"

export interface Unscorable {
  readonly _tag: "Unscorable"
  readonly reason: string
  readonly kind?: UnscorableKind
}

export type Outcome = Scored | Unscorable

/** The return value of a verifier function. A bare number is a score without a reason. */
export type Verdict = number | Omit<Scored, "_tag"> | Unscorable

/** Makes an unscorable verdict: the trajectory is retried, then left out of the baseline and counted. */
export const unscorable = (reason: string, kind: UnscorableKind = "declared"): Unscorable => ({
  _tag: "Unscorable",
  reason,
  kind
})

const Verdict = Schema.Union([
  Schema.Finite,
  Schema.Struct({ _tag: Schema.Literal("Unscorable"), reason: Schema.String }),
  Schema.Struct({
    score: Schema.Finite,
    reason: Schema.optionalKey(Schema.String),
    metrics: Schema.optionalKey(Schema.Record(Schema.String, Schema.Finite)),
    tokenScores: Schema.optionalKey(Schema.Array(Schema.Finite))
  })
])
const decodeVerdict = Schema.decodeUnknownResult(Verdict)

/**
 * Converts a verifier's return value to an outcome. An invalid verdict (NaN, Infinity, a string, token scores of the
 * wrong length or sum) is unscorable and says why. It is a fault of the verifier, never a 0 for the policy.
 */
export const outcome = (verdict: unknown, trajectory: Trajectory): Outcome => {
  if (typeof verdict === "number" && Number.isFinite(verdict)) return { _tag: "Scored", score: verdict }
  // JavaScript callers mean absent fields by undefined ones.
  const decoded = decodeVerdict(withoutUndefined(verdict))
  if (Result.isFailure(decoded)) {
    return unscorable(`the verifier returned no verdict: ${describe(verdict)}`, "verdict")
  }
  const value = decoded.success
  if (typeof value === "number") return { _tag: "Scored", score: value }
  if ("_tag" in value) return unscorable(value.reason)
  if (value.tokenScores !== undefined) {
    const expected = policyTokens(trajectory)
    if (value.tokenScores.length !== expected) {
      return unscorable(`${value.tokenScores.length} token scores for ${expected} policy tokens`, "verdict")
    }
    const sum = value.tokenScores.reduce((total, score) => total + score, 0)
    if (Math.abs(sum - value.score) > 1e-6 * Math.max(1, Math.abs(value.score))) {
      return unscorable(`token scores sum to ${sum}, the score is ${value.score}`, "verdict")
    }
  }
  return { _tag: "Scored", ...value }
}

const describe = (value: unknown): string => {
  if (typeof value !== "object" || value === null) return String(value).slice(0, 100)
  if ("score" in value && typeof value.score === "number" && !Number.isFinite(value.score))
    return `score ${value.score}`
  try {
    return JSON.stringify(value).slice(0, 200)
  } catch {
    return "an object"
  }
}

const withoutUndefined = (value: unknown): unknown =>
  typeof value === "object" && value !== null && !Array.isArray(value)
    ? Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined))
    : value
