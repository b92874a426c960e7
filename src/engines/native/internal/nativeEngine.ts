/** A native model as an {@link Engine}. */
import type { Capabilities } from "../../../engine/Capabilities.ts"
import type { Engine, EngineFacts } from "../../internal/engine.ts"
import * as Native from "../../internal/nativeModel.ts"

const capabilities: Capabilities = {
  outputs: ["entropy"],
  gradients: ["entropy"],
  adapters: ["lora"],
  reference: true
}

export const nativeEngine = (model: Native.NativeModel): Engine => {
  const aborting = <A>(signal: AbortSignal, run: (abort: Native.NativeAbort) => Promise<A>): Promise<A> => {
    const abort = new (Native.load().NativeAbort)()
    if (signal.aborted) abort.abort()
    const raise = () => abort.abort()
    signal.addEventListener("abort", raise, { once: true })
    return run(abort).finally(() => signal.removeEventListener("abort", raise))
  }
  return {
    name: "native",
    capabilities,
    facts: async () => factsOf(model),
    setVocabulary: (bytes, offsets) => model.setVocabulary(bytes, offsets),
    sample: (request, onEvents) => model.sample(request, onEvents),
    cancel: (id) => model.cancel(id),
    forward: (forest, settings, signal) => aborting(signal, (abort) => model.logprobs(forest, settings, abort)),
    backward: (id, dLogprobs, dEntropy, signal) =>
      aborting(signal, (abort) => model.backward(id, dLogprobs, dEntropy, abort)),
    release: (id) => model.release(id),
    step: (settings) => model.step(settings),
    zeroGradients: (adapter) => model.zeroGradients(adapter),
    freezeReference: () => model.freezeReference(),
    save: (directory, options) => model.save(directory, options),
    load: (directory, adapter) => model.load(directory, adapter),
    addAdapter: (name, settings, directory) => model.addAdapter(name, settings, directory),
    removeAdapter: (name) => model.removeAdapter(name),
    exportModel: (directory, options) => model.exportModel(directory, options),
    close: () => model.close()
  }
}

const factsOf = (model: Native.NativeModel): EngineFacts => {
  const { device, isa, threads, ...info } = JSON.parse(model.info()) as Native.NativeInfo
  return { ...info, device: `${device} ${isa}, ${threads} threads` }
}
