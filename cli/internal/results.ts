/** One line of scores, and what a file of them was made from. */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { createHash } from "node:crypto"
import type { Outcome } from "../../src/score/Verifier.ts"

const Row = Schema.Struct({
  /** Line of the input. */
  line: Schema.Int,
  id: Schema.optionalKey(Schema.String),
  task: Schema.optionalKey(Schema.String),
  outcome: Schema.Literals(["scored", "unscorable", "invalid"]),
  score: Schema.optionalKey(Schema.Finite),
  /** Why it is unscorable: `timeout`, `crash`, `error`, `verdict` or `declared`. */
  kind: Schema.optionalKey(Schema.String),
  reason: Schema.optionalKey(Schema.String),
  metrics: Schema.optionalKey(Schema.Record(Schema.String, Schema.Finite)),
  /** Hashes of the verifier with its options, and of the input line, which a resumed run compares. */
  digest: Schema.String
})
export type Row = typeof Row.Type

const decode = Schema.decodeUnknownResult(Row)

/** A line of an earlier run, or nothing when it is none. */
export const parseRow = (text: string): Row | undefined => {
  try {
    const row = decode(JSON.parse(text))
    return Result.isSuccess(row) ? row.success : undefined
  } catch {
    return undefined
  }
}

export const rowOf = (
  about: { readonly line: number; readonly id: string | undefined; readonly task: string; readonly digest: string },
  outcome: Outcome
): Row => ({
  line: about.line,
  ...(about.id === undefined ? {} : { id: about.id }),
  task: about.task,
  ...(outcome._tag === "Scored"
    ? {
        outcome: "scored",
        score: outcome.score,
        ...(outcome.reason === undefined ? {} : { reason: outcome.reason }),
        ...(outcome.metrics === undefined ? {} : { metrics: outcome.metrics })
      }
    : { outcome: "unscorable", kind: outcome.kind ?? "declared", reason: outcome.reason }),
  digest: about.digest
})

export const invalidRow = (line: number, reason: string, digest: string): Row => ({
  line,
  outcome: "invalid",
  reason,
  digest
})

const hash = (data: string | Uint8Array): string => createHash("sha256").update(data).digest("hex")

/** Everything that scores depend on besides the input. */
export const digestOf = (config: unknown): string => hash(canonical(config)).slice(0, 8)
export const lineDigest = (config: string, bytes: Uint8Array | undefined): string =>
  `${config}-${hash(bytes ?? "too long").slice(0, 16)}`

/** JSON with sorted keys. */
const canonical = (value: unknown): string => {
  if (typeof value !== "object" || value === null) return JSON.stringify(value) ?? "null"
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`
  const entries = Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1))
  return `{${entries.map(([key, item]) => `${JSON.stringify(key)}:${canonical(item)}`).join(",")}}`
}
