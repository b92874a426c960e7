import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { Hub, PolicyNative } from "quintain"
import { engineFailure, hubReason } from "../../../../src/engines/internal/engineFailure.ts"

const coded = (code: string, message: string) => Object.assign(new Error(message), { code })

describe("engineFailure", () => {
  it("keeps the text and tells the kinds of the kernel and of the worker apart", () => {
    for (const [code, tag] of [
      ["SHAPE", "Shape"],
      ["NON_FINITE", "NonFinite"],
      ["OUT_OF_MEMORY", "OutOfMemory"],
      ["ABORTED", "Aborted"],
      ["PROVIDER", "Unavailable"],
      ["DEVICE_LOST", "Unavailable"],
      ["ENGINE_LOST", "Unavailable"],
      ["RUNTIME", "Internal"],
      ["A_CODE_OF_TOMORROW", "Internal"],
      // napi's own code for an argument of the wrong type.
      ["StringExpected", "Shape"]
    ] as const) {
      const { operation, reason } = engineFailure("step", coded(code, "the text"))
      assert.deepStrictEqual([operation, reason], ["step", { _tag: tag, detail: "the text" }], code)
    }
    assert.deepStrictEqual(engineFailure("step", "thrown").reason, { _tag: "Internal", detail: "thrown" })
    assert.strictEqual(engineFailure("step", coded("STATE", "not now")).message, "step failed (State): not now")
  })

  it("names the option that the kernel names", () => {
    const detail = "config field `rank`: is 0"
    assert.deepStrictEqual(engineFailure("open", coded("CONFIG", detail)).reason, {
      _tag: "Config",
      option: "rank",
      detail
    })
  })

  it.effect("is what a caller catches by reason", () =>
    Effect.gen(function* () {
      const config = {
        vocab_size: 8,
        hidden_size: 30,
        num_hidden_layers: 1,
        num_attention_heads: 4,
        intermediate_size: 8
      }
      const caught = yield* Layer.build(PolicyNative.layer({ model: config })).pipe(
        Effect.scoped,
        Effect.as("opened"),
        Effect.catchReason("EngineError", "Config", ({ detail, option }) => Effect.succeed(`${option}: ${detail}`))
      )
      assert.match(caught, /^hidden_size: config field `hidden_size`/)
    })
  )
})

describe("hubReason", () => {
  it("tells what to change from what to wait for", () => {
    const reason = (code: Hub.HubError["code"], status?: number) =>
      hubReason(
        new Hub.HubError({
          model: "org/name",
          operation: "open",
          code,
          ...(status === undefined ? {} : { status }),
          detail: "it failed",
          remedy: "Try later"
        })
      )
    assert.deepInclude(reason("NAME"), { _tag: "Config", option: "model" })
    assert.deepInclude(reason("GATED", 401), { _tag: "Rejected", status: 401 })
    assert.strictEqual(reason("OFFLINE")._tag, "Unavailable")
    assert.strictEqual(reason("HASH")._tag, "Format")
    assert.strictEqual(reason("DISK")._tag, "Io")
    assert.include(reason("DISK").detail, "it failed")
  })
})
