import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Environment from "../../../src/rollout/Environment.ts"

const boom = new Error("boom")
const key = { index: 0, seed: 1 }
const task = { id: "t", prompt: "?", data: 3 }
const turn = (text: string): Environment.Action => ({
  text,
  tokens: new Uint32Array(),
  stopReason: "stop",
  number: 1,
  last: false
})

type Step = Parameters<typeof Environment.multiTurn<number, number>>[0]["step"]
const environment = (step: Step) =>
  Environment.multiTurn<number, number>({ name: "sum", maxTokens: 4, maxTurns: 9, start: ({ data }) => data, step })

const play = (step: Step, ...texts: ReadonlyArray<string>) =>
  Effect.scoped(
    Effect.flatMap(environment(step).start(task, key), (episode) =>
      Effect.forEach(texts, (text) => episode.step(turn(text)))
    )
  )

const observed = (state: number, { text }: Environment.Action): Environment.Answer<number> => ({
  done: false,
  observation: `${state + Number(text)}`,
  state: state + Number(text)
})

describe("singleTurn", () => {
  it.effect("is done after any turn, and passes its settings on", () =>
    Effect.gen(function* () {
      const single = Environment.singleTurn({ name: "sums", maxTokens: 5, stop: ["\n"] })
      assert.deepStrictEqual([single.name, single.maxTokens, single.maxTurns, single.stop], ["sums", 5, 1, ["\n"]])
      const episode = yield* Effect.scoped(single.start(task, key))
      assert.deepStrictEqual(yield* episode.step(turn("x")), { done: true })
    })
  )
})

describe("multiTurn", () => {
  it.effect.each([
    ["plain", observed],
    ["promise", async (state: number, turn: Environment.Action) => observed(state, turn)],
    ["effect", (state: number, turn: Environment.Action) => Effect.succeed(observed(state, turn))]
  ] as const)("carries the state from turn to turn: %s", ([, step]) =>
    Effect.gen(function* () {
      const steps = yield* play(step, "1", "2", "10")
      assert.deepStrictEqual(
        steps.map((one) => ("observation" in one ? one.observation : undefined)),
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

describe("an environment with services", () => {
  class Board extends Context.Service<Board, { readonly log: Array<string> }>()("test/Board") {}
  const note = (text: string) => Board.use(({ log }) => Effect.sync(() => void log.push(text)))
  const noted = Environment.multiTurn({
    name: "noted",
    maxTokens: 4,
    maxTurns: 9,
    prompt: ({ prompt }) => Effect.as(note("prompt"), prompt),
    start: (_, { index, seed }) => Effect.as(note(`start ${index} ${seed}`), 0),
    step: (count, { number, text }) =>
      Effect.as(note(`step ${number}`), { done: false as const, observation: text, state: count + 1 }),
    finish: (count, reason) => Effect.as(note(`finish ${reason}`), { info: { count }, reward: 0.5 }),
    close: (count) => note(`close ${count}`)
  })

  it.effect("gives the episode what start has, so that its steps need nothing", () =>
    Effect.gen(function* () {
      const log: Array<string> = []
      const finished = yield* Effect.scoped(
        Effect.gen(function* () {
          const episode = yield* Effect.provideService(noted.start(task, { index: 2, seed: 7 }), Board, { log })
          yield* episode.step(turn("a"))
          return yield* episode.finish!("length")
        })
      )
      assert.deepStrictEqual(finished, { info: { count: 1 }, reward: 0.5 })
      assert.deepStrictEqual(log, ["start 2 7", "step 1", "finish length", "close 1"])
    })
  )

  it.effect("asks for its prompt once, as a value, a promise or an Effect", () =>
    Effect.gen(function* () {
      const log: Array<string> = []
      const asked = noted.prompt!(task)
      assert.isTrue(Effect.isEffect(asked))
      assert.strictEqual(
        yield* Effect.provideService(asked as Effect.Effect<string, never, Board>, Board, { log }),
        "?"
      )
      const promised = Environment.singleTurn({ maxTokens: 1, prompt: async () => "later" })
      assert.strictEqual(yield* promised.prompt!(task) as Effect.Effect<string>, "later")
      const broken = Environment.singleTurn({ name: "mail", maxTokens: 1, prompt: () => Promise.reject(boom) })
      const error = yield* Effect.flip(broken.prompt!(task) as Effect.Effect<string, Environment.EnvironmentError>)
      assert.strictEqual(error.message, "environment mail failed on task t: boom")
    })
  )

  it.effect("closes in the promise form too, after a failure as well", () =>
    Effect.gen(function* () {
      const closed: Array<number> = []
      const environment = Environment.multiTurn<number, number>({
        name: "promises",
        maxTokens: 4,
        maxTurns: 9,
        start: async ({ data }) => data,
        step: async () => Promise.reject(boom),
        close: async (state) => closed.push(state)
      })
      const played = Effect.scoped(Effect.flatMap(environment.start(task, key), (episode) => episode.step(turn("a"))))
      assert.strictEqual((yield* Effect.flip(played)).cause, boom)
      assert.deepStrictEqual(closed, [3])
    })
  )
})
