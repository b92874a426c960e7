import { assert, describe, it } from "@effect/vitest"
import * as Exit from "effect/Exit"
import * as Schema from "effect/Schema"
import * as fc from "fast-check"
import { check } from "../../../../../src/engines/server/internal/check.ts"
import {
  type Answer,
  type Dialect,
  drawOf,
  seedOf,
  Unusable
} from "../../../../../src/engines/server/internal/dialect.ts"
import { llamaCpp } from "../../../../../src/engines/server/internal/llamaCpp.ts"
import { meaningOf } from "../../../../../src/engines/server/internal/meaning.ts"
import { sglang } from "../../../../../src/engines/server/internal/sglang.ts"
import { vllm } from "../../../../../src/engines/server/internal/vllm.ts"

const draw = drawOf(
  {
    prompt: Uint32Array.of(1, 2),
    count: 1,
    maxTokens: 5,
    stopTokens: [6, 7],
    stop: ["end"],
    key: { seed: 0, stream: "", index: 0 }
  },
  0,
  undefined
)

/** Returns the result of `run`, or undefined if it throws Unusable; other errors fail the test. */
const usable = <A>(run: () => A): A | undefined => {
  try {
    return run()
  } catch (cause) {
    if (cause instanceof Unusable) return undefined
    throw cause
  }
}

const token = fc.oneof(
  { weight: 20, arbitrary: fc.integer({ min: 0, max: 7 }) },
  fc.constantFrom(-1, 8, 1.5, 2 ** 32, Number.NaN, Infinity)
)
const logprob = fc.oneof(
  { weight: 20, arbitrary: fc.double({ min: -20, max: 0, noNaN: true }) },
  fc.constantFrom(null, Number.NaN, -Infinity, Infinity, 0.5, -9999, -3.4e38)
)
const answers: fc.Arbitrary<Answer> = fc.integer({ min: 0, max: 6 }).chain((length) =>
  fc.record(
    {
      tokens: fc.array(token, { minLength: length, maxLength: length }),
      logprobs: fc.oneof(
        { weight: 9, arbitrary: fc.array(logprob, { minLength: length, maxLength: length }) },
        fc.array(logprob, { maxLength: 6 })
      ),
      finish: fc.constantFrom("stop" as const, "length" as const, "other" as const),
      reason: fc.constant("said"),
      matched: fc.constantFrom<number | string>(6, 7, "end", "NaN happened"),
      prompt: fc.constantFrom<ReadonlyArray<number>>([1, 2], [1, 2], [1, 2], [2, 1], [1])
    },
    { requiredKeys: ["tokens", "logprobs", "finish", "reason"] }
  )
)

describe("what is made of a server's answer", () => {
  for (const cut of [false, true]) {
    it(`is a sample of the request, or nothing${cut ? ", where stop tokens are cut off here" : ""}`, () => {
      let seen = 0
      fc.assert(
        fc.property(answers, (answer) => {
          const completion = usable(() => check(answer, draw, { cut, vocabularySize: 8 }))
          if (completion === undefined) return
          seen++
          const { logprobs, stopReason, tokens } = completion
          assert.strictEqual(tokens.length, logprobs.length)
          assert.isTrue(tokens.length >= 1 && tokens.length <= draw.maxTokens)
          assert.isTrue(tokens.every((id, t) => id < 8 && id === answer.tokens[t]))
          assert.isTrue(logprobs.every((value) => Number.isFinite(value) && value <= 0))
          assert.isFalse(
            tokens.subarray(0, -1).some((id) => id === 6 || id === 7),
            "nothing follows a stop token"
          )
          const stopped = tokens.at(-1)! >= 6
          if (stopReason !== "stop") assert.isFalse(stopped)
          else assert.isTrue(stopped || answer.matched === "end")
          if (stopReason === "length") assert.strictEqual(tokens.length, draw.maxTokens)
        }),
        { numRuns: 4000 }
      )
      assert.isAbove(seen, 200, "some are samples")
    })
  }

  it("is never an error of another kind, whatever JSON came", () => {
    const names = [
      "choices",
      "meta_info",
      "tokens",
      "completion_probabilities",
      "stop_type",
      "finish_reason",
      "logprobs"
    ]
    const more = ["token_logprobs", "token_ids", "top_logprobs", "output_token_logprobs", "type", "id", "logprob"]
    const key = fc.constantFrom(...names, ...more, "__proto__")
    const { json } = fc.letrec<{ json: unknown }>((tie) => ({
      json: fc.oneof(
        { depthSize: "medium" },
        fc.constantFrom(null, true, 0, -1, 1.5, 1e308, "stop", "eos", ""),
        fc.array(tie("json"), { maxLength: 3 }),
        fc.dictionary(key, tie("json"), { maxKeys: 6 })
      )
    }))
    const survives = <Body>(dialect: Dialect<Body>, value: unknown) => {
      const body = Schema.decodeUnknownExit(dialect.decode)(value)
      if (Exit.isFailure(body)) return
      usable(() => check(dialect.answer(body.value), draw, { cut: dialect.cut, vocabularySize: 8 }))
      dialect.alternatives(body.value)
    }
    fc.assert(
      fc.property(json, (value) => {
        survives(vllm, value)
        survives(sglang, value)
        survives(llamaCpp, value)
      }),
      { numRuns: 2000 }
    )
  })
})

describe("what log-probabilities mean", () => {
  const top = (logits: ReadonlyArray<number>, temperature: number) => {
    const scaled = logits.map((logit) => logit / temperature)
    const total = Math.log(scaled.reduce((sum, logit) => sum + Math.exp(logit), 0))
    return new Map(scaled.map((logit, id) => [String(id), logit - total]))
  }

  it("is told of any distribution that is not flat, also where the answers are rounded to 16 bits", () => {
    const rounded = (values: ReadonlyMap<string, number>) =>
      new Map(Array.from(values, ([id, value]) => [id, Math.round(value * 128) / 128]))
    fc.assert(
      fc.property(fc.array(fc.double({ min: -8, max: 8, noNaN: true }), { minLength: 2, maxLength: 12 }), (logits) => {
        const [plain, warm] = [rounded(top(logits, 1)), rounded(top(logits, 2))]
        const spread = Math.max(...logits) - Math.min(...logits)
        const [raw, processed] = [meaningOf(plain, plain), meaningOf(plain, warm)]
        if (spread > 0.5) assert.deepStrictEqual([raw, processed], ["raw", "processed"])
        else assert.isTrue(raw !== "processed" && processed !== "raw")
      })
    )
  })

  it("is not told where the answers share too few tokens, or contradict both", () => {
    const plain = top([3, 1, 0], 1)
    assert.isUndefined(meaningOf(plain, new Map([["7", -1]])))
    assert.isUndefined(meaningOf(new Map(), new Map()))
    assert.isUndefined(meaningOf(plain, top([3, 1, 0], 0.5)))
  })
})

describe("seeds", () => {
  it("differ by run, stream and index, and are those of the sample's own index", () => {
    const keys = [0, 1].flatMap((seed) =>
      ["a", "b", "a/1"].flatMap((stream) => [0, 1, 2].map((index) => seedOf({ seed, stream, index: 0 }, index)))
    )
    for (const bits of [31, 53]) assert.strictEqual(new Set(keys.map((key) => BigInt.asUintN(bits, key))).size, 18)
    const request = { prompt: Uint32Array.of(1), count: 4, maxTokens: 1 }
    const key = { seed: 3, stream: "t" }
    assert.strictEqual(
      drawOf({ ...request, key: { ...key, index: 2 } }, 1, undefined).seed,
      drawOf({ ...request, key: { ...key, index: 0 } }, 3, undefined).seed
    )
  })
})
