/**
 * Settings of adapters, and a layer that selects one of several adapters on a base.
 *
 * The base is held once. Each adapter has its own weights, gradients, optimiser and version, in PEFT's format on disk.
 *
 * {@link layer} selects the adapter for everything that trains or samples in its scope. So a whole run can train one
 * adapter:
 *
 * @example
 * ```ts
 * const both = Effect.all([
 *   Grpo.train({ ...options, directory: "runs/tools" }).pipe(Effect.provide(Adapter.layer("tools"))),
 *   Grpo.train({ ...options, directory: "runs/sums" }).pipe(Effect.provide(Adapter.layer("sums")))
 * ], { concurrency: "unbounded" })
 *
 * Effect.gen(function* () {
 *   const { adapters } = yield* Policy.Policy
 *   yield* adapters.add("tools", { kind: "lora", rank: 16 })
 *   yield* adapters.add("sums", { kind: "lora", rank: 8, targets: ["q_proj", "v_proj"] })
 *   yield* both
 * }).pipe(Effect.provide(PolicyNative.layer({ model, tokenizer, adapters: {} })))
 * ```
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { base } from "../model/adapterConfig.ts"
import { EngineError } from "./EngineError.ts"
import { Policy, type PolicyInfo } from "./Policy.ts"
import { Sampler } from "./Sampler.ts"

export { AdapterConfig, base, defaultName, Lora } from "../model/adapterConfig.ts"

/**
 * Selects the adapter `name` as the default of policy and sampler.
 *
 * Calls sample, train, save and load this adapter unless they name another. Fails with reason `State` if there is no
 * such adapter. The base stays shared.
 */
export const layer = (name: string): Layer.Layer<Policy | Sampler, EngineError, Policy | Sampler> =>
  Layer.effectContext(
    Effect.gen(function* () {
      const policy = yield* Policy
      const sampler = yield* Sampler
      const adapters = yield* policy.adapters.list
      const own = adapters.find((adapter) => adapter.name === name)
      if (own === undefined && name !== base) {
        const known = adapters.map((adapter) => adapter.name).join(", ") || "none"
        const detail = `there is no adapter \`${name}\` (there are: ${known}); add it first with adapters.add`
        return yield* new EngineError({ operation: "adapter", reason: { _tag: "State", detail } })
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
  info: infoOf(policy.info, adapter, trainable),
  forward: (forest, options) => policy.forward(forest, { adapter, ...options }),
  step: (settings) => policy.step({ adapter, ...settings }),
  zeroGradients: (options) => policy.zeroGradients({ adapter, ...options }),
  save: (directory, options) => policy.save(directory, { adapter, ...options }),
  load: (directory, options) => policy.load(directory, { adapter, ...options }),
  exportModel: (directory, options) => policy.exportModel(directory, { adapter, ...options })
})

const infoOf = (info: PolicyInfo, adapter: string, trainable: number): PolicyInfo => {
  const { adapter: _, ...rest } = info
  return { ...rest, trainable, ...(adapter === base ? {} : { adapter }) }
}
