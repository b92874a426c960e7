/** Opens the device, the store, and the engines on them, in the worker thread of an ONNX engine. */
import { basename } from "node:path"
import type { EngineFacts } from "../../internal/engine.ts"
import { load, type NativeInfo, type NativeModel } from "../../internal/nativeModel.ts"
import { Device } from "./device.ts"
import { Follower } from "../sampler/follower.ts"
import { Gate } from "./gate.ts"
import { WorkerPolicy } from "../policy/workerPolicy.ts"
import type { WorkerSettings } from "./protocol.ts"
import { openSampler } from "../sampler/batchingSampler.ts"
import type { Engines } from "./serve.ts"
import { factsOf, Weights } from "./weights.ts"

/** If it fails, nothing stays open. */
export const openEngines = async (
  settings: WorkerSettings
): Promise<{ readonly device: Device; readonly engines: Engines }> => {
  const { deviceBytes, providers, threads, weights } = settings
  const device = await Device.open({
    providers,
    gate: new Gate(settings.gate),
    ...(threads === undefined ? {} : { threads }),
    ...(deviceBytes === undefined ? {} : { deviceBytes })
  })
  try {
    const open = weights === undefined ? openPolicy : openFollower
    return { device, engines: await open(settings, device) }
  } catch (cause) {
    await device.close()
    throw cause
  }
}

/** The store computes nothing: it reads and writes files, and holds the weights to write. */
const openStore = ({ store }: WorkerSettings, path = store.path): Promise<NativeModel> => {
  const { NativeModel } = load()
  const { config, ...settings } = { ...store.settings, threads: 1 }
  return path === undefined
    ? NativeModel.create(JSON.stringify({ ...settings, config }))
    : NativeModel.open(path, JSON.stringify(settings))
}

const openPolicy = async (settings: WorkerSettings, device: Device): Promise<Engines> => {
  const { cacheBytes } = settings
  const store = await openStore(settings)
  try {
    const weights = await Weights.open(store, device)
    const policy = await WorkerPolicy.open(weights, settings.policy)
    const sampler = await openSampler({
      weights,
      source: "inputs",
      ...(cacheBytes === undefined ? {} : { cacheBytes })
    })
    return {
      verbs: {
        forward: (abort, forest, settings) => policy.forward(forest, settings, abort),
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
      sampler,
      facts: () => described(withCache(policy.info(), device), "f32", device, settings),
      close: async () => {
        await sampler.close()
        await policy.close()
        await device.close()
        await store.close()
      }
    }
  } catch (cause) {
    await store.close()
    throw cause
  }
}

const openFollower = async (settings: WorkerSettings, device: Device): Promise<Engines> => {
  const { cacheBytes, weights: form = "f32" } = settings
  const follower = await Follower.open({
    open: (path) => openStore(settings, path),
    device,
    form,
    ...(cacheBytes === undefined ? {} : { cacheBytes })
  })
  return {
    verbs: { update: (abort, weights) => follower.update(weights, abort) },
    sampler: follower,
    facts: () => described(factsOf(follower.store), form, device, settings),
    close: async () => {
      await follower.close()
      await device.close()
    }
  }
}

/** Counts the device's other tensors as the sampler's. */
const withCache = (info: NativeInfo, device: Device): NativeInfo => {
  const { activations, adapters, gradients, moments, reference, total, weights } = info.memory
  const others = weights + adapters + reference + gradients + moments + activations
  const cache = Math.max(0, device.bytes - others)
  return { ...info, memory: { ...info.memory, cache, total: total + cache } }
}

/** `dtype` is the type that weights are computed with. */
const described = (info: NativeInfo, dtype: string, device: Device, { threads }: WorkerSettings): EngineFacts => {
  const driver = process.env["VK_DRIVER_FILES"] ?? process.env["VK_ICD_FILENAMES"]
  const where = [
    device.provider,
    // The runtime does not say which graphics adapter it uses; a driver that was selected by hand is known.
    ...(device.provider === "webgpu" && driver !== undefined ? [basename(driver)] : []),
    ...(threads === undefined ? [] : [`${threads} threads`])
  ].join(", ")
  const why = device.refused.map(({ provider, reason }) => `${provider}: ${reason}`).join("; ")
  return { ...info, engine: "onnx", dtype, device: why === "" ? where : `${where} (${why})` }
}
