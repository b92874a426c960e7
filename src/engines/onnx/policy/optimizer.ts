/** Gradients and the state of AdamW as tensors of a device, with transfer to and from the store. */
import type { StepReport, StepSettings } from "../../internal/nativeModel.ts"
import type { Tensor } from "../worker/device.ts"
import { EngineFailure } from "../worker/failure.ts"
import { sizeOf } from "../graph/graph.ts"
import * as Graphs from "./policyGraphs.ts"
import type { Sessions } from "../graph/sessions.ts"
import type { Owner, Weights } from "../worker/weights.ts"

interface State {
  readonly gradients: Map<string, Tensor>
  readonly moments: Map<string, readonly [Tensor, Tensor]>
  /** Backward passes since the last step. */
  accumulated: number
  steps: number
}

export class Optimizer {
  readonly #weights: Weights
  readonly #sessions: Sessions
  readonly #states = new Map<Owner, State>()
  readonly #zeros = new Map<string, Tensor>()

  constructor(weights: Weights, sessions: Sessions) {
    this.#weights = weights
    this.#sessions = sessions
  }

  #state(owner: Owner): State {
    const known = this.#states.get(owner)
    if (known !== undefined) return known
    const state: State = { gradients: new Map(), moments: new Map(), accumulated: 0, steps: 0 }
    this.#states.set(owner, state)
    return state
  }

  /** Zeros like a tensor; all tensors of a shape share them, and they are never freed. */
  async #zero(like: Tensor): Promise<Tensor> {
    const key = like.dims.join()
    const known = this.#zeros.get(key)
    if (known !== undefined) return known
    const zeros = await this.#weights.device.upload(new Float32Array(sizeOf(like.dims)), like.dims)
    this.#zeros.set(key, zeros)
    return zeros
  }

  #free(...tensors: ReadonlyArray<Tensor>): void {
    const shared = new Set(this.#zeros.values())
    this.#weights.device.free(...tensors.filter((tensor) => !shared.has(tensor)))
  }

  /** Returns the accumulated gradient. */
  async gradient(owner: Owner, name: string): Promise<Tensor> {
    return this.#state(owner).gradients.get(name) ?? (await this.#zero(this.#weights.tensor(owner, name)))
  }

  /** Replaces a gradient by a sum that includes it. */
  accumulate(owner: Owner, name: string, sum: Tensor): void {
    const { gradients } = this.#state(owner)
    const old = gradients.get(name)
    gradients.set(name, sum)
    if (old !== undefined) this.#free(old)
  }

  accumulated(owner: Owner): void {
    this.#state(owner).accumulated++
  }

  clear(owner: Owner): void {
    const state = this.#state(owner)
    this.#free(...state.gradients.values())
    state.gradients.clear()
    state.accumulated = 0
  }

  steps(owner: Owner): number {
    return this.#states.get(owner)?.steps ?? 0
  }

  async step(owner: Owner, settings: StepSettings): Promise<StepReport> {
    const state = this.#state(owner)
    check(settings)
    if (state.accumulated === 0) {
      throw new EngineFailure("STATE", "step: there are no gradients: call backward first")
    }
    const groups = Array.from(this.#groups(owner))
    let squares = 0
    for (const names of groups) {
      const feeds = await Promise.all(
        names.map(async (name, i) => [`g${i}`, await this.gradient(owner, name)] as const)
      )
      const shapes = feeds.map(([, tensor]) => tensor.dims)
      const session = await this.#sessions.get(`squares ${shapes.join(";")}`, () => Graphs.squares(shapes), ["sum"])
      squares += (await session.run(Object.fromEntries(feeds)))["sum"]!.data[0] as number
    }
    const gradNorm = Math.sqrt(squares)
    const scale = settings.maxGradNorm === 0 ? 1 : Math.min(1, settings.maxGradNorm / (gradNorm + 1e-6))
    const skipped = !Number.isFinite(gradNorm)
    if (!skipped) {
      const steps = state.steps + 1
      await this.#weights.whole(owner, async () => {
        for (const names of groups) await this.#update(owner, state, names, settings, { scale, steps })
      })
      state.steps = steps
    }
    this.clear(owner)
    const version = skipped ? this.#weights.version(owner) : this.#weights.changed(owner)
    return { gradNorm, clipped: !skipped && scale < 1, skipped, version }
  }

  /** Tensors that are updated in one run: those of a layer, and each of the others alone. */
  #groups(owner: Owner): Iterable<ReadonlyArray<string>> {
    const groups = new Map<string, Array<string>>()
    for (const name of this.#weights.names(owner)) {
      const key = /\.layers\.\d+\./.exec(name)?.[0] ?? name
      const own = groups.get(key) ?? []
      own.push(name)
      groups.set(key, own)
    }
    return groups.values()
  }

  async #update(
    owner: Owner,
    state: State,
    names: ReadonlyArray<string>,
    settings: StepSettings,
    { scale, steps }: { readonly scale: number; readonly steps: number }
  ) {
    const { device } = this.#weights
    const bias = (beta: number) => 1 - Math.fround(beta) ** steps
    const numbers: Record<(typeof Graphs.stepInputs)[number], number> = {
      gradientScale: scale,
      decay: 1 - settings.learningRate * settings.weightDecay,
      beta1: settings.beta1,
      beta2: settings.beta2,
      stepSize: settings.learningRate / bias(settings.beta1),
      correction: Math.sqrt(bias(settings.beta2)),
      epsilon: settings.epsilon
    }
    const feeds: Record<string, Tensor> = {}
    for (const [name, value] of Object.entries(numbers)) feeds[name] = device.host(Float32Array.of(value), [1])
    const shapes: Array<ReadonlyArray<number>> = []
    for (const [i, name] of names.entries()) {
      const weight = this.#weights.tensor(owner, name)
      const [first, second] = state.moments.get(name) ?? [await this.#zero(weight), await this.#zero(weight)]
      shapes.push(weight.dims)
      Object.assign(feeds, { [`w${i}`]: weight, [`m${i}`]: first, [`v${i}`]: second })
      feeds[`g${i}`] = await this.gradient(owner, name)
    }
    const session = await this.#sessions.get(`adamW ${shapes.join(";")}`, () => Graphs.adamW(shapes))
    const results = await session.run(feeds)
    for (const [i, name] of names.entries()) {
      this.#weights.replace(owner, name, results[`w${i}.next`]!)
      this.#free(...(state.moments.get(name) ?? []))
      state.moments.set(name, [results[`m${i}.next`]!, results[`v${i}.next`]!])
    }
  }

  /** Takes over the optimiser's state that the store has read from a checkpoint. */
  async read(owner: Owner): Promise<void> {
    const { device, store } = this.#weights
    this.remove(owner)
    const { steps } = await store.counters(owner ?? "base")
    if (steps === 0) return
    const state = this.#state(owner)
    state.steps = steps
    for (const name of this.#weights.names(owner)) {
      const moments = await store.moments(name, owner ?? "base")
      if (moments === null) continue
      const { dims } = this.#weights.tensor(owner, name)
      state.moments.set(name, [await device.upload(moments.first, dims), await device.upload(moments.second, dims)])
    }
    await this.forget(owner)
  }

  /** Copies an owner's weights, and its moments if requested, to the store. */
  async write(owner: Owner, moments: boolean): Promise<void> {
    const { device, store } = this.#weights
    const of = owner ?? "base"
    if (owner === undefined && !this.#weights.full) return
    for (const name of this.#weights.names(owner)) {
      await store.setParameter(name, await device.download(this.#weights.tensor(owner, name)), of)
    }
    const state = this.#state(owner)
    for (const [name, [first, second]] of moments ? state.moments : []) {
      await store.setMoments(name, await device.download(first), await device.download(second), of)
    }
    const version = this.#weights.version(owner)
    await store.setCounters({ version, ...(moments ? { steps: state.steps } : {}) }, of)
  }

  /** Frees the store's copy of the moments. */
  async forget(owner: Owner): Promise<void> {
    if (owner !== undefined || this.#weights.full) await this.#weights.store.setCounters({ steps: 0 }, owner ?? "base")
  }

  remove(owner: Owner): void {
    this.clear(owner)
    for (const moments of this.#state(owner).moments.values()) this.#free(...moments)
    this.#states.delete(owner)
  }

  /** Bytes on the device. */
  memory(): { readonly gradients: number; readonly moments: number } {
    const bytes = (tensor: Tensor) => 4 * sizeOf(tensor.dims)
    let [gradients, moments] = [0, 0]
    for (const state of this.#states.values()) {
      for (const tensor of state.gradients.values()) gradients += bytes(tensor)
      for (const pair of state.moments.values()) for (const tensor of pair) moments += bytes(tensor)
    }
    return { gradients, moments }
  }
}

const check = ({ beta1, beta2, epsilon, learningRate, maxGradNorm, weightDecay }: StepSettings): void => {
  const within = (name: string, value: number, valid: boolean) => {
    if (!valid || !Number.isFinite(value)) {
      throw new EngineFailure("CONFIG", `${name} is ${value}, which AdamW cannot use`)
    }
  }
  within("learningRate", learningRate, learningRate >= 0)
  within("beta1", beta1, beta1 >= 0 && beta1 < 1)
  within("beta2", beta2, beta2 >= 0 && beta2 < 1)
  within("epsilon", epsilon, epsilon > 0)
  within("weightDecay", weightDecay, weightDecay >= 0)
  within("maxGradNorm", maxGradNorm, maxGradNorm >= 0)
}
