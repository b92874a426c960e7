/** What the worker thread of an ONNX engine opens: the store, the device, and the engines on it. */
import type { EngineFacts } from "../Engine.ts"
import { load, type NativeInfo, type NativeModel } from "../Native.ts"
import { Device } from "./device.ts"
import { EngineFailure } from "./engine.ts"
import { Gate } from "./gate.ts"
import { PolicyEngine } from "./policyEngine.ts"
import type { WorkerSettings } from "./protocol.ts"
import type { Engines } from "./serve.ts"
import { Weights } from "./weights.ts"

/** On failure nothing stays open. */
export const openEngines = async (
  settings: WorkerSettings
): Promise<{ readonly device: Device; readonly engines: Engines }> => {
  const { deviceBytes, providers, threads } = settings
  const device = await Device.open({
    providers,
    gate: new Gate(settings.gate),
    ...(threads === undefined ? {} : { threads }),
    ...(deviceBytes === undefined ? {} : { deviceBytes })
  })
  let store: NativeModel | undefined
  try {
    store = await openStore(settings)
    return { device, engines: await openPolicy(settings, store, device) }
  } catch (cause) {
    await device.close()
    await store?.close()
    throw cause
  }
}

/** It computes nothing: it reads and writes files, and holds what is written. */
const openStore = ({ store }: WorkerSettings): Promise<NativeModel> => {
  const { NativeModel } = load()
  const json = JSON.stringify({ ...store.settings, threads: 1 })
  return store.path === undefined ? NativeModel.create(json) : NativeModel.open(store.path, json)
}

const openPolicy = async (settings: WorkerSettings, store: NativeModel, device: Device): Promise<Engines> => {
  const weights = await Weights.open(store, device)
  const policy = await PolicyEngine.open(weights, settings.policy)
  return {
    verbs: {
      logprobs: (abort, forest, settings) => policy.logprobs(forest, settings, abort),
      backward: (abort, id, dLogprobs, dEntropy) => policy.backward(id, dLogprobs, dEntropy, abort),
      release: (_, id) => policy.release(id),
      step: (_, settings) => policy.step(settings),
      zeroGradients: (_, adapter) => policy.zeroGradients(adapter),
      freezeReference: () => policy.freezeReference(),
      save: (_, directory, options) => policy.save(directory, options),
      load: (_, directory, adapter) => policy.load(directory, adapter),
      addAdapter: (_, name, settings, directory) => policy.addAdapter(name, settings, directory),
      removeAdapter: (_, name) => policy.removeAdapter(name),
      exportModel: (_, directory, options) => policy.exportModel(directory, options)
    },
    sampler: {
      setVocabulary: () => {},
      submit: () => {
        throw new EngineFailure("STATE", "sample: the sampler of this engine is not built in yet")
      },
      cancel: () => {},
      busy: () => false,
      step: async () => {}
    },
    facts: () => factsOf(policy.info(), device, settings),
    close: async () => {
      await policy.close()
      await device.close()
      await store.close()
    }
  }
}

const factsOf = (info: NativeInfo, device: Device, { threads }: WorkerSettings): EngineFacts => {
  const where = threads === undefined ? device.provider : `${device.provider}, ${threads} threads`
  const why = device.refused.map(({ provider, reason }) => `${provider}: ${reason}`).join("; ")
  return { ...info, engine: "onnx", device: why === "" ? where : `${where} (${why})` }
}
