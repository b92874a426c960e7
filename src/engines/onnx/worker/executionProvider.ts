/** The execution providers of ONNX Runtime, and the options that choose one. */

/** Where ONNX Runtime computes, by its own names. */
export type ExecutionProvider = "webgpu" | "cuda" | "dml" | "coreml" | "cpu"

/** Where an engine of ONNX Runtime runs. */
export interface DeviceOptions {
  /**
   * In order of preference: the first that opens runs every graph; operators it does not have run on the processor. Only
   * with `webgpu` do weights stay on the device between runs; for the others the runtime copies them for each.
   * Default: webgpu, then cpu.
   */
  readonly executionProviders?: ReadonlyArray<ExecutionProvider>
  /**
   * Bytes that tensors kept on the device may take together: weights, gradients, moments, layer inputs, the sampler's cache.
   * What a graph needs while it runs comes on top. Default: until the device refuses.
   */
  readonly deviceBytes?: number
}
