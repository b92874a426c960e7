import type { Loss, LossInput, LossOutput } from "../lossContract.ts"

/** Evaluates a loss and checks what came back; `undefined` in place of numbers that are not finite. */
export const evaluateLoss = (loss: Loss, input: LossInput) => {
  const output: LossOutput = loss(input)
  const targets = input.logprobs.length
  for (const [name, values] of [
    ["dLogprobs", output.dLogprobs],
    ["dEntropy", output.dEntropy]
  ] as const) {
    if (values !== undefined && values.length !== targets) {
      throw new RangeError(`the loss returned ${values.length} numbers as ${name} for ${targets} targets`)
    }
  }
  // In the precision they are handed over in: what overflows there is not finite either.
  const dLogprobs = Float32Array.from(output.dLogprobs)
  const dEntropy = output.dEntropy === undefined ? undefined : Float32Array.from(output.dEntropy)
  const finite =
    Number.isFinite(output.loss) &&
    dLogprobs.every(Number.isFinite) &&
    (dEntropy === undefined || dEntropy.every(Number.isFinite))
  return finite ? { output, dLogprobs, dEntropy } : undefined
}
