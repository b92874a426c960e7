/**
 * Settings of adapters, and the modules that they apply to.
 *
 * Kinds are those of PEFT's `peft_type`; variants of a kind are settings of it, as in PEFT's files.
 *
 * A kind with virtual tokens (prompt tuning, prefix tuning) keeps them in the kernel alone. Token trees, trajectories
 * and sample requests hold real tokens only, and `AdapterInfo.contextLength` is shorter by the number of virtual
 * tokens.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { RE2JS } from "re2js"

/** Low-rank adaptation: `y += scale · B · A · dropout(x)`, with A random and B zero at the start. */
export const Lora = Schema.Struct({
  kind: Schema.Literal("lora"),
  rank: Schema.Int.check(Schema.isGreaterThan(0)),
  /** Scales the adapter by alpha / rank. Default: twice the rank. */
  alpha: Schema.optionalKey(Schema.Finite),
  /**
   * Linear layers with an adapter, as PEFT reads them. A list: every module whose path is an entry, or ends with `.`
   * and an entry (`q_proj`, `layers.3.mlp.down_proj`). A text: a regular expression (RE2's) that matches whole paths
   * (`model\\.layers\\.[0-9]\\..*`). `all-linear`, the default: every layer except the head.
   */
  targets: Schema.optionalKey(Schema.Union([Schema.String, Schema.Array(Schema.String)])),
  /** Scale by alpha / sqrt(rank) (rsLoRA). Default false. */
  rsLora: Schema.optionalKey(Schema.Boolean),
  /**
   * Share of the adapter's inputs that a forward for training (`keep: true`) drops, and only such a forward. Unlike in
   * PEFT, q, k and v of a layer share a mask, and so do gate and up. The log-probabilities of such a forward are those
   * under its mask, not those that samples were drawn with. Default 0.
   */
  dropout: Schema.optionalKey(Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1, exclusiveMaximum: true })))
})
export type Lora = typeof Lora.Type

export const AdapterConfig = Schema.Union([Lora])
export type AdapterConfig = typeof AdapterConfig.Type

/** The option `lora: { rank: 16 }` of engines: short for `adapter: { kind: "lora", rank: 16 }`. */
export type LoraShorthand = Omit<Lora, "kind">

/** Returns the adapter of an engine's options: `adapter`, or `lora` in its place. */
export const adapterOf = (options: {
  readonly adapter?: AdapterConfig | undefined
  readonly lora?: LoraShorthand | undefined
}): AdapterConfig | undefined =>
  options.adapter ?? (options.lora === undefined ? undefined : { kind: "lora", ...options.lora })

/** Name of the adapter that the option `adapter` makes. Calls without an adapter's name use it. */
export const defaultName = "default"

/** Name of the model without adapters. */
export const base = "base"

/**
 * Resolves `targets` to a list: an expression is matched against the paths of `modules`. Fails with what is wrong with
 * it.
 */
export const resolveTargets = (
  targets: AdapterConfig["targets"],
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
