/**
 * Low-rank adapters (LoRA): what one is made of, and the policy and sampler of one of several that share a base. The base
 * is held once; each adapter has its own factors, gradients, optimiser and version, in PEFT's format on disk.
 *
 * {@link layer} gives whatever trains or samples in its scope another adapter, so a whole run can be about one of them:
 *
 * @example
 * ```ts
 * const both = Effect.all([
 *   Grpo.train(tools).pipe(Effect.provide(Adapter.layer("tools"))),
 *   Grpo.train(sums).pipe(Effect.provide(Adapter.layer("sums")))
 * ], { concurrency: "unbounded" })
 *
 * Effect.gen(function* () {
 *   const { adapters } = yield* Policy.Policy
 *   yield* adapters.add("tools", { rank: 16 })
 *   yield* adapters.add("sums", { rank: 8, targets: ["q_proj", "v_proj"] })
 *   yield* both
 * }).pipe(Effect.provide(PolicyNative.layer({ model, tokenizer, adapters: {} })))
 * ```
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { RE2JS } from "re2js"
import { Policy, PolicyError } from "./Policy.ts"
import { Sampler } from "./Sampler.ts"

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
      catch: (cause) => `\`${targets}\` is no regular expression: ${cause instanceof Error ? cause.message : cause}`
    }),
    (expression) => {
      const matched = modules.filter((module) => expression.matches(module))
      return matched.length > 0
        ? Result.succeed(matched)
        : Result.fail(`\`${targets}\` matches no module: they are called ${modules[0]} to ${modules.at(-1)}`)
    }
  )
}

/**
 * Policy and sampler with the adapter `name` in place of the default one: it is what is sampled, trained, saved and
 * loaded, unless a call names another. The adapter must be there; its base stays shared.
 */
export const layer = (name: string): Layer.Layer<Policy | Sampler, PolicyError, Policy | Sampler> =>
  Layer.effectContext(
    Effect.gen(function* () {
      const policy = yield* Policy
      const sampler = yield* Sampler
      const adapters = yield* policy.adapters.list
      const own = adapters.find((adapter) => adapter.name === name)
      if (own === undefined && name !== base) {
        const known = adapters.map((adapter) => adapter.name).join(", ") || "none"
        const detail = `there is no adapter \`${name}\` (there are: ${known}); add it first with adapters.add`
        return yield* new PolicyError({ operation: "adapter", code: "STATE", detail })
      }
      return Context.make(Policy, withAdapter(policy, name, own?.parameters ?? 0)).pipe(
        Context.add(Sampler, {
          ...sampler,
          sample: (request) => sampler.sample({ adapter: name, ...request })
        })
      )
    })
  )

const withAdapter = (policy: Policy["Service"], adapter: string, trainable: number): Policy["Service"] => ({
  ...policy,
  info: { ...policy.info, trainable },
  logprobs: (forest, options) => policy.logprobs(forest, { adapter, ...options }),
  step: (settings) => policy.step({ adapter, ...settings }),
  zeroGradients: (options) => policy.zeroGradients({ adapter, ...options }),
  save: (directory, options) => policy.save(directory, { adapter, ...options }),
  load: (directory, options) => policy.load(directory, { adapter, ...options }),
  exportModel: (directory, options) => policy.exportModel(directory, { adapter, ...options })
})
