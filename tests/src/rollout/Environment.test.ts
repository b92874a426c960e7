import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Environment from "../../../src/rollout/Environment.ts"

const task = { id: "t", prompt: "?", data: 3 }
const turn = (text: string): Environment.Turn => ({ text, tokens: new Uint32Array(), stopReason: "stop" })

type Step = Parameters<typeof Environment.multiTurn<number, number>>[0]["step"]
const environment = (step: Step) =>
  Environment.multiTurn<number, number>({ name: "sum", maxTokens: 4, maxTurns: 9, start: ({ data }) => data, step })

const play = (step: Step, ...texts: ReadonlyArray<string>) =>
  Effect.scoped(
    Effect.flatMap(environment(step).start(task), (episode) =>
      Effect.forEach(texts, (text) => episode.step(turn(text)))
    )
  )

const observed = (state: number, { text }: Environment.Turn): Environment.Answer<number> => ({
  done: false,
  observation: `${state + Number(text)}`,
  state: state + Number(text)
})

describe("singleTurn", () => {
  it.effect("is done after any turn, and passes its settings on", () =>
    Effect.gen(function* () {
      const single = Environment.singleTurn({ name: "sums", maxTokens: 5, stop: ["\n"] })
      assert.deepStrictEqual([single.name, single.maxTokens, single.maxTurns, single.stop], ["sums", 5, 1, ["\n"]])
      const episode = yield* Effect.scoped(single.start(task))
      assert.deepStrictEqual(yield* episode.step(turn("x")), { done: true })
    })
  )
})

describe("multiTurn", () => {
  it.effect.each([
    ["plain", observed],
    ["promise", async (state: number, turn: Environment.Turn) => observed(state, turn)],
    ["effect", (state: number, turn: Environment.Turn) => Effect.succeed(observed(state, turn))]
  ] as const)("carries the state from turn to turn: %s", ([, step]) =>
    Effect.gen(function* () {
      const steps = yield* play(step, "1", "2", "10")
      assert.deepStrictEqual(
        steps.map((one) => (one.done ? undefined : one.observation)),
        ["4", "6", "16"]
      )
    })
  )

  it.effect("keeps the state where none is given, and starts every episode afresh", () =>
    Effect.gen(function* () {
      const step: Step = (state, { text }) =>
        text === "add" ? { done: false, observation: "", state: state + 1 } : { done: true, info: { state } }
      const [, , last] = yield* play(step, "add", "add", "end")
      assert.deepStrictEqual(last, { done: true, info: { state: 5 } })
      const [only] = yield* play(step, "end")
      assert.deepStrictEqual(only, { done: true, info: { state: 3 } })
    })
  )

  const boom = new Error("boom")
  it.effect.each([
    [
      "throws",
      () => {
        throw boom
      }
    ],
    ["rejects", () => Promise.reject(boom)],
    ["fails", () => Effect.fail(boom)]
  ] as const)("is lost when its step %s", ([, step]) =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(play(step, "1"))
      assert.strictEqual(error._tag, "EnvironmentError")
      assert.strictEqual(error.message, "environment sum failed on task t: boom")
      assert.strictEqual(error.cause, boom)
    })
  )
})
