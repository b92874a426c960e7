/** The execution providers of ONNX Runtime, and the options that choose one. */

/** Execution providers, by ONNX Runtime's own names. */
export type ExecutionProvider = "webgpu" | "cuda" | "dml" | "coreml" | "cpu"

/** Options of the device on which ONNX Runtime computes. */
export interface DeviceOptions {
  /**
   * Providers in order of preference. The first that opens runs every graph; operators that it lacks run on the
   * processor. Only with `webgpu` do weights stay on the device between runs. For other providers the runtime copies
   * them in each run. Default: webgpu, then cpu.
   */
  readonly executionProviders?: ReadonlyArray<ExecutionProvider>
  /**
   * Most bytes of tensors on the device: weights, gradients, moments, layer inputs, the sampler's cache. A graph needs
   * more while it runs. Default: until the device refuses.
   */
  readonly deviceBytes?: number
}
