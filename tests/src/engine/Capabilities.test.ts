import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { Capabilities, Policy, PolicyNative } from "quintain"

const model = { vocab_size: 8, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 1, intermediate_size: 8 }

describe("Capabilities.missing", () => {
  const whole: Capabilities.Capabilities = {
    outputs: ["entropy"],
    gradients: ["entropy"],
    adapters: ["lora"],
    reference: true
  }

  it("names the needs that are not met, in their order", () => {
    assert.deepStrictEqual(Capabilities.missing(whole, ["reference", "entropy"]), [])
    assert.deepStrictEqual(Capabilities.missing(whole, ["values", "entropy", "topK"]), ["values", "topK"])
    assert.deepStrictEqual(Capabilities.missing({ ...whole, reference: false }, ["entropy", "reference"]), [
      "reference"
    ])
  })

  it("wants the gradient of an output as well", () => {
    assert.deepStrictEqual(Capabilities.missing({ ...whole, gradients: [] }, ["entropy"]), ["entropy"])
    assert.deepStrictEqual(Capabilities.missing({ ...whole, outputs: [] }, ["entropy"]), ["entropy"])
  })

  it.effect("are stated by an engine", () =>
    Effect.gen(function* () {
      const { capabilities } = yield* Policy.Policy
      assert.deepStrictEqual(capabilities, whole)
    }).pipe(Effect.provide(PolicyNative.layer({ model })))
  )
})
