/** Our own engine as an {@link Engine}, on the same file. */
import * as Effect from "effect/Effect"
import * as ManagedRuntime from "effect/ManagedRuntime"
import { Policy, PolicyNative, Sampler } from "quintain"
import type { Engine } from "./Engine.ts"

/** How the weights are held: as f32, as bf16, or in the file's own blocks, computed in bf16. */
export const FORMS: Readonly<Record<string, Pick<PolicyNative.NativeOptions, "dtype" | "blocks">>> = {
  f32: { dtype: "f32" },
  bf16: { dtype: "bf16" },
  file: { dtype: "bf16", blocks: "file" },
  "file f32": { dtype: "f32", blocks: "file" }
}

/** One sequence, and what is asked after it. */
const chain = (
  tokens: ReadonlyArray<number>,
  targets: ReadonlyArray<readonly [position: number, token: number]>
): Policy.Forest => ({
  tokens: Uint32Array.from(tokens),
  segmentStart: Uint32Array.of(0),
  segmentLength: Uint32Array.of(tokens.length),
  segmentParent: Int32Array.of(-1),
  targetPosition: Uint32Array.from(targets, ([position]) => position),
  targetToken: Uint32Array.from(targets, ([, token]) => token)
})

export const quintain = (model: string, form: string, threads: number): Engine => {
  const runtime = ManagedRuntime.make(PolicyNative.layer({ model, threads, ...FORMS[form]! }))
  const sample = (prompt: ReadonlyArray<number>, maxTokens: number) =>
    Sampler.Sampler.use((sampler) =>
      sampler.sample({
        prompt: Uint32Array.from(prompt),
        count: 1,
        temperature: 0,
        maxTokens,
        key: { seed: 0, stream: "bench", index: 0 }
      })
    )
  const logprobs = (...forest: Parameters<typeof chain>) =>
    runtime.runPromise(Policy.Policy.use((policy) => policy.forward(chain(...forest))))
  return {
    name: `quintain ${form}`,
    greedy: async (prompt, count) => Array.from((await runtime.runPromise(sample(prompt, count)))[0]!.tokens),
    logprobs: async (tokens) => {
      const targets = tokens.slice(1).map((token, i) => [i, token] as const)
      return Array.from((await logprobs(tokens.slice(0, -1), targets)).logprobs)
    },
    gap: async (prefix, a, b) => {
      const last = prefix.length - 1
      const { logprobs: both } = await logprobs(prefix, [
        [last, a],
        [last, b]
      ])
      return both[0]! - both[1]!
    },
    decode: async (prompts, count) => {
      await runtime.runPromise(
        Effect.forEach(prompts, (prompt) => sample(prompt, count), { concurrency: "unbounded", discard: true })
      )
    },
    close: () => runtime.dispose()
  }
}
