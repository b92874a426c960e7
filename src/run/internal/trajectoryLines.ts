/** A trajectory as a line of `trajectories/step-*.jsonl`. Per-token arrays are base64, versions are runs. */
import * as Schema from "effect/Schema"
import * as SchemaTransformation from "effect/SchemaTransformation"
import type { Turn } from "../../rollout/Trajectory.ts"
import type { ScoredGroup, ScoredTrajectory } from "../../score/Reward.ts"
import type { Outcome } from "../../score/Verifier.ts"
import * as Base64 from "./base64.ts"

/** A group of a step; without advantages when it was drawn but not trained on. */
export interface RecordedGroup extends ScoredGroup {
  readonly advantages?: ReadonlyArray<number | Float64Array>
}

const Count = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xffffffff }))
const Numbers = Schema.Record(Schema.String, Schema.Number)

/** Version of the weights per token, written as runs: `[[version, tokens], ...]`. */
const Versions = Schema.Array(Schema.Tuple([Count, Count])).pipe(
  Schema.decodeTo(
    Schema.instanceOf(Uint32Array as new () => Uint32Array),
    SchemaTransformation.transform({
      decode: (runs: ReadonlyArray<readonly [number, number]>): Uint32Array =>
        Uint32Array.from(runs.flatMap(([version, count]) => Array<number>(count).fill(version))),
      encode: (versions: Uint32Array): ReadonlyArray<readonly [number, number]> => {
        const runs: Array<[version: number, count: number]> = []
        for (const version of versions) {
          const run = runs.at(-1)
          if (run !== undefined && run[0] === version) run[1]++
          else runs.push([version, 1])
        }
        return runs
      }
    })
  )
)

/** A token string, or the part of one that no earlier branch has. */
const BranchRecord = Schema.Struct({
  parent: Schema.optionalKey(Schema.Struct({ branch: Count, length: Count })),
  tokens: Base64.Uint32,
  /** `Producer` of each token. */
  producer: Base64.Uint8,
  /** At the sampling temperature; 0 at tokens that were not sampled. */
  logprobs: Base64.Float32,
  /** Version of the weights that sampled each token; 0 at others. */
  versions: Versions
})

const Seconds = Schema.Struct({ sample: Schema.Number, environment: Schema.Number })

/** One call of the sampler. */
const TurnRecord = Schema.Struct({
  branch: Count,
  start: Count,
  end: Count,
  text: Schema.String,
  stopReason: Schema.Literals(["stop", "length", "context"]),
  temperature: Schema.Number,
  reward: Schema.optionalKey(Schema.Number),
  calls: Schema.optionalKey(Schema.Array(Schema.Json)),
  metrics: Schema.optionalKey(Numbers),
  seconds: Seconds
})

const OutcomeRecord = Schema.Union([
  Schema.Struct({
    _tag: Schema.Literal("Scored"),
    score: Schema.Number,
    reason: Schema.optionalKey(Schema.String),
    metrics: Schema.optionalKey(Numbers),
    /** One number per policy token. */
    tokenScores: Schema.optionalKey(Base64.Float64)
  }),
  Schema.Struct({
    _tag: Schema.Literal("Unscorable"),
    reason: Schema.String,
    kind: Schema.optionalKey(Schema.Literals(["timeout", "crash", "error", "verdict", "declared"]))
  })
])

/** A trajectory of a step, with what verifiers said of it and its advantage. */
export const TrajectoryRecord = Schema.Struct({
  task: Schema.String,
  index: Count,
  /** Null: unscorable. */
  reward: Schema.NullOr(Schema.Number),
  /** The trajectory's advantage, or one number per policy token. Null if it was drawn but not trained on. */
  advantage: Schema.NullOr(Schema.Union([Schema.Number, Base64.Float64])),
  /** One number per policy token; sums to `reward`. */
  tokenRewards: Schema.optionalKey(Base64.Float64),
  outcomes: Schema.Record(Schema.String, OutcomeRecord),
  /** Seconds of the last attempt, and attempts, by verifier. */
  timings: Schema.optionalKey(
    Schema.Record(Schema.String, Schema.Struct({ seconds: Schema.Number, attempts: Schema.Int }))
  ),
  metrics: Numbers,
  stopReason: Schema.Literals(["stop", "length", "context", "environment"]),
  /** Everything after the prompt. */
  text: Schema.String,
  turns: Schema.Array(TurnRecord),
  /** Tokens that were given. */
  promptLength: Count,
  branches: Schema.NonEmptyArray(BranchRecord),
  seconds: Seconds,
  info: Schema.JsonObject
})
export type TrajectoryRecord = typeof TrajectoryRecord.Type

/** The text of a line, both ways. Numbers that are not finite become text. */
export const Line = Schema.fromJsonString(Schema.toCodecJson(TrajectoryRecord))
const encode = Schema.encodeSync(Line)

/** The lines of these groups, in their order. */
export const trajectoryLines = (groups: ReadonlyArray<RecordedGroup>): string =>
  groups
    .flatMap(({ advantages, trajectories }) =>
      trajectories.map((scored, i) => `${encode(record(scored, advantages?.[i]))}\n`)
    )
    .join("")

const record = (
  { metrics, outcomes, reward, timings, tokenRewards, trajectory }: ScoredTrajectory,
  advantage: number | Float64Array | undefined
): TrajectoryRecord => ({
  task: trajectory.taskId,
  index: trajectory.index,
  reward: reward ?? null,
  advantage: advantage ?? null,
  ...(tokenRewards === undefined ? {} : { tokenRewards }),
  outcomes: Object.fromEntries(Object.entries(outcomes).map(([name, outcome]) => [name, outcomeRecord(outcome)])),
  ...(timings === undefined ? {} : { timings }),
  metrics: { ...trajectory.metrics, ...metrics },
  stopReason: trajectory.stopReason,
  text: trajectory.text,
  turns: trajectory.turns.map(turnRecord),
  promptLength: trajectory.promptLength,
  branches: trajectory.branches,
  seconds: trajectory.seconds,
  info: trajectory.info
})

const turnRecord = ({ calls, ...turn }: Turn): typeof TurnRecord.Type => ({
  ...turn,
  ...(calls === undefined ? {} : { calls: JSON.parse(JSON.stringify(calls)) as ReadonlyArray<Schema.Json> })
})

const outcomeRecord = (outcome: Outcome): typeof OutcomeRecord.Type => {
  if (outcome._tag === "Unscorable") return outcome
  const { tokenScores, ...rest } = outcome
  return tokenScores === undefined ? rest : { ...rest, tokenScores: Float64Array.from(tokenScores) }
}
