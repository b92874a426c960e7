/** The settings of adapters, and the modules they apply to. */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { RE2JS } from "re2js"

/** The settings of an adapter. `y += scale · B · A · dropout(x)`, with A random, B zero at the start. */
export const LoraConfig = Schema.Struct({
  rank: Schema.Int.check(Schema.isGreaterThan(0)),
  /** The scale is alpha / rank. Default: twice the rank. */
  alpha: Schema.optionalKey(Schema.Finite),
  /**
   * Which linear layers, as PEFT reads it. A list: every module whose path is an entry, or ends with `.` and an entry
   * (`q_proj`, `layers.3.mlp.down_proj`). A text: a regular expression (RE2's) that matches whole paths
   * (`model\\.layers\\.[0-9]\\..*`). `all-linear`, the default: every one but the head.
   */
  targets: Schema.optionalKey(Schema.Union([Schema.String, Schema.Array(Schema.String)])),
  /** Scale by alpha / sqrt(rank) (rsLoRA). Default false. */
  rsLora: Schema.optionalKey(Schema.Boolean),
  /**
   * Share of the adapter's inputs dropped in a forward that a gradient follows (`keep: true`), and only there. Unlike in
   * PEFT, q, k and v of a layer share a mask, and so do gate and up. The log-probabilities of such a forward are those
   * under its mask, not those that samples were drawn with. Default 0.
   */
  dropout: Schema.optionalKey(Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1, exclusiveMaximum: true })))
})
export type LoraConfig = typeof LoraConfig.Type

/** The name of the adapter that `lora` makes; it serves calls that name none. */
export const defaultName = "default"

/** Names the model without adapters where a call may name one. */
export const base = "base"

/**
 * The modules that `targets` stand for, as entries of a list: an expression is matched against the paths of `modules`. The
 * failure says what is wrong with it.
 */
export const resolveTargets = (
  targets: LoraConfig["targets"],
  modules: ReadonlyArray<string>
): Result.Result<ReadonlyArray<string>, string> => {
  if (targets === undefined) return Result.succeed(["all-linear"])
  if (typeof targets !== "string") return Result.succeed(targets)
  if (targets === "all-linear") return Result.succeed([targets])
  return Result.flatMap(
    Result.try({
      try: () => RE2JS.compile(targets),
      catch: (cause) => `\`${targets}\` is not a regular expression: ${cause instanceof Error ? cause.message : cause}`
    }),
    (expression) => {
      const matched = modules.filter((module) => expression.matches(module))
      return matched.length > 0
        ? Result.succeed(matched)
        : Result.fail(`\`${targets}\` matches no module: they are called ${modules[0]} to ${modules.at(-1)}`)
    }
  )
}
