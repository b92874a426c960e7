import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as Environment from "../../../src/rollout/Environment.ts"
import * as Rollout from "../../../src/rollout/Rollout.ts"
import type { SampleRequest } from "../../../src/engine/Sampler.ts"
import { Sampler } from "../../../src/engine/Sampler.ts"
import * as SamplerScripted from "../../../src/engines/scripted/SamplerScripted.ts"
import * as Task from "../../../src/data/Task.ts"
import * as Tokenizer from "../../../src/text/Tokenizer.ts"
import { Producer, tokensOf, type Trajectory } from "../../../src/rollout/Trajectory.ts"
import { tabular } from "../../fixtures/tabularPolicy.ts"

const tokenizer = Tokenizer.bytes()
/** The one branch of an episode whose context only grew. */
const only = ({ branches, turns }: Trajectory) => {
  assert.strictEqual(branches.length, 1)
  return { ...branches[0], texts: turns.map(({ text }) => text) }
}
const tasks = Task.fromArray(Array.from({ length: 6 }, (_, i) => ({ id: `t${i}`, prompt: `${i}+1=?`, data: i + 1 })))
const draws = (options: Partial<Task.StreamOptions> = {}) =>
  Task.stream(tasks, { seed: 1, epochs: 1, shuffle: false, ...options })

const recorded = (reply: SamplerScripted.Script["reply"]) => {
  const requests: Array<SampleRequest> = []
  const layer = Layer.effect(
    Sampler,
    Effect.map(Sampler, (inner) => ({
      ...inner,
      name: "recorded",
      sample: (request: SampleRequest) =>
        Effect.suspend(() => {
          requests.push(request)
          return inner.sample(request)
        })
    }))
  ).pipe(Layer.provide(SamplerScripted.layer({ tokenizer, reply })))
  return { requests, layer }
}

describe("single turn", () => {
  it.effect("samples a whole group in one request, and keeps what it got", () =>
    Effect.gen(function* () {
      const { layer, requests } = recorded((_, index) => `a${index}`)
      const environment = Environment.singleTurn({ maxTokens: 8, stop: ["\n"] })
      const sampling = { temperature: 0.7 }
      const groups = yield* draws().pipe(
        Rollout.groups({ environment, tokenizer, size: 3, seed: 5, sampling }),
        Stream.runCollect,
        Effect.provide(layer)
      )
      assert.strictEqual(requests.length, 6)
      assert.deepStrictEqual(requests[2], {
        prompt: tokenizer.encode("2+1=?"),
        count: 3,
        key: { seed: 5, stream: "t2#2", index: 0 },
        maxTokens: 8,
        temperature: 0.7,
        stopTokens: [256],
        stop: ["\n"]
      })
      assert.deepStrictEqual(
        groups.map(({ task }) => task.id),
        ["t0", "t1", "t2", "t3", "t4", "t5"]
      )
      const second = groups[2]!.trajectories[1]!
      assert.deepStrictEqual(
        [second.taskId, second.index, second.text, only(second).texts, second.stopReason],
        ["t2", 1, "a1", ["a1"], "stop"]
      )
      assert.deepStrictEqual(tokensOf(second, 0), Uint32Array.of(...tokenizer.encode("2+1=?a1"), 256))
      assert.deepStrictEqual(only(second).producer, Uint8Array.of(0, 0, 0, 0, 0, 2, 2, 2))
      assert.strictEqual(second.promptLength, 5)
    })
  )

  it.effect("ends with `length` at the environment's limit and with `context` at the model's", () =>
    Effect.gen(function* () {
      const { layer, requests } = recorded(() => "abcdef")
      const run = (contextLength: number) =>
        draws().pipe(
          Stream.take(1),
          Rollout.groups({
            environment: Environment.singleTurn({ maxTokens: 4 }),
            tokenizer,
            size: 1,
            seed: 1,
            contextLength
          }),
          Stream.runCollect,
          Effect.provide(layer)
        )
      const [long] = yield* run(100)
      assert.strictEqual(long!.trajectories[0]!.stopReason, "length")
      assert.strictEqual(long!.trajectories[0]!.text, "abcd")
      const [short] = yield* run(7)
      assert.strictEqual(requests.at(-1)!.maxTokens, 2)
      assert.strictEqual(short!.trajectories[0]!.stopReason, "context")
      const [none] = yield* run(5)
      assert.strictEqual(none!.trajectories.length, 0)
      assert.include(none!.failures![0]!.message, "prompt has 5 tokens")
    })
  )

  it.effect("gives another draw of a task other random numbers", () =>
    Effect.gen(function* () {
      const { layer, requests } = recorded(() => "")
      yield* draws({ epochs: 2 }).pipe(
        Rollout.groups({ environment: Environment.singleTurn({ maxTokens: 4 }), tokenizer, size: 2, seed: 1 }),
        Stream.runDrain,
        Effect.provide(layer)
      )
      assert.strictEqual(new Set(requests.map(({ key }) => key.stream)).size, 12)
    })
  )
})

describe("multi-turn", () => {
  const counting = Environment.multiTurn<number, number>({
    name: "counting",
    maxTokens: 4,
    maxTurns: 3,
    start: () => 0,
    step: (count, turn) =>
      turn.text === "end"
        ? { done: true, info: { count }, metrics: { turns: count + 1 }, reason: "environment" }
        : { done: false, observation: `<${count}>`, state: count + 1 }
  })
  const roll = (reply: SamplerScripted.Script["reply"], options: Partial<Rollout.RolloutOptions<number>> = {}) => {
    const { layer, requests } = recorded(reply)
    return draws().pipe(
      Stream.take(1),
      Rollout.groups({ environment: counting, tokenizer, size: 2, seed: 1, ...options }),
      Stream.runCollect,
      Effect.provide(layer),
      Effect.map(([group]) => ({ group: group!, requests }))
    )
  }

  it.effect("appends ids and never decodes and encodes them again", () =>
    Effect.gen(function* () {
      // Half of a two-byte character: its text is U+FFFD, which would come back as three other bytes.
      const half = Uint32Array.of(0xc3, 256)
      const { group, requests } = yield* roll((request) => (request.prompt.length > 5 ? "end" : half))
      const { text, info, metrics, stopReason } = group.trajectories[1]!
      const { producer, texts, tokens } = only(group.trajectories[1]!)
      const expected = [...tokenizer.encode("0+1=?"), 0xc3, 256, ...tokenizer.encode("<0>end"), 256]
      assert.deepStrictEqual([...tokens], expected)
      assert.deepStrictEqual([...requests[1]!.prompt], expected.slice(0, 10))
      const { Environment: E, Policy: P, Template: T } = Producer
      assert.deepStrictEqual([...producer], [T, T, T, T, T, P, P, E, E, E, P, P, P, P])
      assert.deepStrictEqual(texts, ["\uFFFD", "end"])
      assert.strictEqual(text, "\uFFFD<0>end")
      assert.deepStrictEqual([info, metrics, stopReason], [{ count: 1 }, { turns: 2 }, "environment"])
    })
  )

  it.effect("shares the first request, then keys each trajectory and turn by itself", () =>
    Effect.gen(function* () {
      const { group, requests } = yield* roll(() => "go")
      assert.deepStrictEqual(
        group.trajectories.map(({ stopReason, turns }) => [stopReason, turns.length]),
        [
          ["length", 3],
          ["length", 3]
        ]
      )
      const keys = requests.map(({ count, key }) => `${key.stream} ${key.index} x${count}`)
      assert.deepStrictEqual(keys.toSorted(), ["t0#0 0 x2", "t0#0/1 0 x1", "t0#0/1 1 x1", "t0#0/2 0 x1", "t0#0/2 1 x1"])
    })
  )

  it.effect("ends with `context` before an observation that does not fit", () =>
    Effect.gen(function* () {
      const { group } = yield* roll(() => "go", { contextLength: 11 })
      const { stopReason } = group.trajectories[0]!
      assert.strictEqual(stopReason, "context")
      assert.strictEqual(only(group.trajectories[0]!).tokens.length, 8)
    })
  )
})

describe("a conversation with tools", () => {
  const tools = [{ type: "function", function: { name: "add", parameters: { type: "object" } } }]
  const messages: ReadonlyArray<Task.Message> = [
    { role: "system", content: "Use tools." },
    { role: "user", content: "1+2?" }
  ]
  const asked = Task.fromArray([{ id: "sum", prompt: { messages, tools }, data: 3 }])
  const END = tokenizer.endOfText
  const answer: Task.Message = { role: "tool", name: "add", content: "3" }
  const environment = (maxTokens: number) =>
    Environment.multiTurn<number, number>({
      name: "adder",
      maxTokens,
      maxTurns: 3,
      start: () => 0,
      step: (turns) => (turns === 1 ? { done: true } : { done: false, observation: [answer], state: turns + 1 })
    })
  const run = (maxTokens: number, more: Partial<Rollout.RolloutOptions<number>> = {}) => {
    const { layer, requests } = recorded((_, index) => (index === 0 ? "<call>" : "3"))
    return Task.stream(asked, { seed: 1, epochs: 1 }).pipe(
      Rollout.groups({ environment: environment(maxTokens), tokenizer, size: 1, seed: 5, retries: 0, ...more }),
      Stream.runCollect,
      Effect.provide(layer),
      Effect.map(([group]) => ({ group: group!, requests }))
    )
  }
  const text = (tokens: ArrayLike<number>) => Array.from(tokens)

  it.effect("renders tools and messages, and keeps who said what", () =>
    Effect.gen(function* () {
      const { group, requests } = yield* run(16)
      const [trajectory] = group.trajectories
      const prompt = text(tokenizer.render(messages, { tools }))
      assert.deepStrictEqual(text(requests[0]!.prompt), prompt)
      assert.include(tokenizer.decode(prompt), JSON.stringify(tools))
      const said = [...tokenizer.encode("<call>"), END]
      const seen = [260, ...tokenizer.encode("3"), END, 259]
      assert.deepStrictEqual(text(requests[1]!.prompt), [...prompt, ...said, ...seen])
      assert.deepStrictEqual(text(only(trajectory!).tokens), [...prompt, ...said, ...seen, ...said])
      const by = [prompt, said, seen, said].flatMap((part, i) =>
        part.map(() => [Producer.Template, Producer.Policy, Producer.Environment, Producer.Policy][i])
      )
      assert.deepStrictEqual<unknown>(text(only(trajectory!).producer), by)
    })
  )

  it.effect("ends a turn that was cut off, without claiming that the policy did", () =>
    Effect.gen(function* () {
      const { group, requests } = yield* run(3)
      const prompt = text(tokenizer.render(messages, { tools }))
      const seen = [END, 260, ...tokenizer.encode("3"), END, 259]
      assert.deepStrictEqual(text(requests[1]!.prompt), [...prompt, ...tokenizer.encode("<ca"), ...seen])
      const producer = text(only(group.trajectories[0]!).producer).slice(prompt.length, prompt.length + 3 + seen.length)
      const { Environment: environment, Policy: policy, Template: template } = Producer
      const rest = seen.slice(1).map(() => environment)
      assert.deepStrictEqual(producer, [policy, policy, policy, template, ...rest])
    })
  )

  it.effect("leaves no piece of an observation that does not fit the context", () =>
    Effect.gen(function* () {
      const prompt = text(tokenizer.render(messages, { tools }))
      const said = text(tokenizer.encode("<ca"))
      // The cut turn fits. Its end (of the template) and the answer (of the environment) are two pieces: 5 tokens in all.
      for (const room of [3, 4, 7, 8]) {
        const { group, requests } = yield* run(3, { contextLength: prompt.length + room })
        const { producer, tokens } = only(group.trajectories[0]!)
        const { stopReason } = group.trajectories[0]!
        assert.lengthOf(requests, 1)
        assert.strictEqual(stopReason, "context")
        assert.deepStrictEqual(text(tokens), [...prompt, ...said], `room for ${room}`)
        assert.deepStrictEqual(text(producer).slice(prompt.length), [Producer.Policy, Producer.Policy, Producer.Policy])
      }
      const { group, requests } = yield* run(3, { contextLength: prompt.length + 9 })
      assert.lengthOf(requests, 2)
      assert.strictEqual(only(group.trajectories[0]!).tokens.length, prompt.length + 9)
    })
  )

  it.effect("stops at every token that ends a turn, and needs a chat template for messages", () =>
    Effect.gen(function* () {
      const { requests } = yield* run(16, { tokenizer: { ...tokenizer, stopTokens: [END, 7] } })
      assert.deepStrictEqual(requests[0]!.stopTokens, [END, 7])
      const { continuation: _, ...plain } = tokenizer
      const { group } = yield* run(16, { tokenizer: plain })
      assert.match(group.failures![0]!.message, /bytes\(256\) has no chat template/)
    })
  )
})

describe("what an environment may answer", () => {
  type Step = Parameters<typeof Environment.multiTurn<number, ReadonlyArray<Environment.Action>>>[0]["step"]
  const roll = (
    step: Step,
    options: Partial<Rollout.RolloutOptions<number>> = {},
    more: Partial<Environment.MultiTurn<number, ReadonlyArray<Environment.Action>>> = {}
  ) => {
    const { layer, requests } = recorded((_, index) => (index === 0 ? "first" : "second"))
    const environment = Environment.multiTurn<number, ReadonlyArray<Environment.Action>>({
      name: "free",
      maxTokens: 6,
      maxTurns: 3,
      start: () => [],
      step,
      ...more
    })
    return draws().pipe(
      Stream.take(1),
      Rollout.groups({ environment, tokenizer, size: 1, seed: 1, retries: 0, ...options }),
      Stream.runCollect,
      Effect.provide(layer),
      Effect.map(([group]) => ({ group: group!, requests }))
    )
  }
  const prompt = [...tokenizer.encode("0+1=?")]
  const first = [...tokenizer.encode("first"), 256]

  it.effect("replaces the context: a branch that leaves the first where the contexts part", () =>
    Effect.gen(function* () {
      const { group, requests } = yield* roll((seen, action) =>
        seen.length === 0
          ? { done: false, context: "0+1=? summary", state: [action] }
          : { done: false, observation: "!", state: seen }
      )
      const summary = [...tokenizer.encode(" summary")]
      assert.deepStrictEqual(
        requests.map(({ prompt }) => [...prompt]),
        [prompt, [...prompt, ...summary], [...prompt, ...summary, ...first, 33]]
      )
      assert.deepStrictEqual(
        requests.map(({ key }) => key.stream),
        ["t0#0", "t0#0/1", "t0#0/2"]
      )
      const trajectory = group.trajectories[0]!
      assert.deepStrictEqual(
        trajectory.branches.map(({ parent, tokens }) => ({ parent, tokens: [...tokens] })),
        [
          { parent: undefined, tokens: [...prompt, ...first] },
          { parent: { branch: 0, length: 5 }, tokens: [...summary, ...first, 33, ...first] }
        ]
      )
      assert.deepStrictEqual(
        trajectory.turns.map(({ branch, end, start }) => [branch, start, end]),
        [
          [0, 5, 11],
          [1, 8, 14],
          [1, 15, 21]
        ]
      )
      assert.strictEqual(trajectory.text, " summaryfirst!first")
      assert.strictEqual(trajectory.stopReason, "length")
    })
  )

  it.effect("samples replaced contexts for training like others, also after a turn that filled the model's", () =>
    Effect.gen(function* () {
      const { group, requests } = yield* roll(
        (seen, action) =>
          seen.length === 0
            ? { done: false, context: "0", state: [action] }
            : { done: true, info: { seen: seen.length } },
        { contextLength: 8, forTraining: true }
      )
      const trajectory = group.trajectories[0]!
      assert.deepStrictEqual(
        requests.map(({ forTraining, prompt }) => [forTraining, prompt.length]),
        [
          [true, 5],
          [true, 1]
        ]
      )
      assert.deepStrictEqual(
        trajectory.turns.map(({ stopReason }) => stopReason),
        ["context", "stop"]
      )
      const long = yield* roll(() => ({ done: false, context: "0123456" }), { contextLength: 7 })
      assert.strictEqual(long.group.trajectories[0]!.stopReason, "context")
      const none = yield* roll(() => ({ done: false, context: new Uint32Array(0) }))
      assert.match(none.group.failures![0]!.message, /the context of a step has 0 tokens/)
    })
  )

  it.effect("tells each action its number and whether it is the last, and each episode a seed of its own", () =>
    Effect.gen(function* () {
      const seen: Array<readonly [number, boolean]> = []
      const seeds: Array<readonly [number, number]> = []
      const run = roll(
        (state, { last, number }) => {
          seen.push([number, last])
          return { done: false, observation: "", state }
        },
        { size: 2 },
        {
          start: (_, { index, seed }) => {
            seeds.push([index, seed])
            return []
          }
        }
      )
      yield* run
      assert.deepStrictEqual(
        seen.toSorted(([a], [b]) => a - b),
        [1, 1, 2, 2, 3, 3].map((number) => [number, number === 3])
      )
      yield* run
      assert.deepStrictEqual(seeds.slice(2), seeds.slice(0, 2))
      assert.strictEqual(new Set(seeds.map(([, seed]) => seed)).size, 2)
    })
  )

  it.effect("keeps rewards, metrics and seconds by turn, and finishes at every end before it closes", () =>
    Effect.gen(function* () {
      for (const [contextLength, end] of [
        [100, "environment"],
        [14, "context"]
      ] as const) {
        const ends: Array<string> = []
        const { group } = yield* roll(
          (seen, action) =>
            seen.length === 0
              ? { done: false, observation: "1234", reward: 0.25, metrics: { a: 1, b: 1 }, state: [action] }
              : { done: true, reason: "environment", reward: 0.5, metrics: { b: 2 }, info: { who: "step", step: 2 } },
          { contextLength, sampling: { temperature: 0.5 } },
          {
            finish: (seen, reason) => {
              ends.push(`finish ${reason}`)
              return { info: { who: "finish", seen: seen.length }, reward: 1, metrics: { c: 3 } }
            },
            close: () => ends.push("close")
          }
        )
        const { info, metrics, seconds, stopReason, turns } = group.trajectories[0]!
        assert.strictEqual(stopReason, end)
        assert.deepStrictEqual(ends, [`finish ${end}`, "close"])
        const whole = end === "environment"
        assert.deepStrictEqual(
          turns.map(({ reward }) => reward),
          whole ? [0.25, 1.5] : [1.25]
        )
        assert.deepStrictEqual(turns[0]!.metrics, { a: 1, b: 1 })
        assert.deepStrictEqual(metrics, { a: 1, b: whole ? 2 : 1, c: 3 })
        assert.deepStrictEqual<unknown>(info, { who: "finish", ...(whole ? { step: 2 } : {}), seen: 1 })
        assert.strictEqual(turns[0]!.temperature, 0.5)
        const sum = turns.reduce((total, turn) => total + turn.seconds.sample, 0)
        assert.strictEqual(seconds.sample, sum)
      }
    })
  )

  it.effect("refuses info that is not JSON, with its place", () =>
    Effect.gen(function* () {
      for (const state of [{ seen: new Map() }, undefined, Number.NaN, [1n], new Date(0)]) {
        const info = { fine: [1, null, "a", { b: true }], state } as never
        const { group } = yield* roll(() => ({ done: true, info }))
        assert.match(group.failures![0]!.message, /free failed on task t0: info.state is not plain JSON; expected null/)
      }
    })
  )

  it.effect("loses an episode that cannot close or finish, and nothing else", () =>
    Effect.gen(function* () {
      const broken = (): never => {
        throw new Error("broken")
      }
      const bare = Environment.singleTurn<number>({ name: "bare", maxTokens: 4 })
      const { group: thrown } = yield* roll(() => ({ done: true }), { environment: { ...bare, start: broken } })
      assert.match(thrown.failures![0]!.message, /bare failed on task t0: broken/)
      for (const more of [{ close: broken }, { finish: broken }]) {
        const { group } = yield* roll(() => ({ done: true }), {}, more)
        assert.lengthOf(group.trajectories, 0)
        assert.match(group.failures![0]!.message, /free failed on task t0: broken/)
      }
    })
  )

  it.effect("has services from where the rollout runs, for its prompt as well", () =>
    Effect.gen(function* () {
      class Host extends Context.Service<Host, { readonly greeting: string }>()("test/Host") {}
      const asked: Array<string> = []
      const environment = Environment.multiTurn<number, string, Host>({
        name: "host",
        maxTokens: 6,
        maxTurns: 1,
        prompt: ({ id }) => Host.use(({ greeting }) => Effect.sync(() => (asked.push(id), `${greeting} ${id}`))),
        start: () => Host.use(({ greeting }) => Effect.succeed(greeting)),
        step: (state) => Host.use(({ greeting }) => Effect.succeed({ done: true, info: { same: state === greeting } }))
      })
      const { layer, requests } = recorded(() => "x")
      const [group] = yield* draws().pipe(
        Stream.take(1),
        Rollout.groups({ environment, tokenizer, size: 3, seed: 1 }),
        Stream.runCollect,
        Effect.provide(layer),
        Effect.provideService(Host, { greeting: "hi" })
      )
      assert.deepStrictEqual(asked, ["t0"])
      assert.deepStrictEqual([...requests[0]!.prompt], [...tokenizer.encode("hi t0")])
      assert.deepStrictEqual<unknown>(
        group!.trajectories.map(({ info }) => info),
        [{ same: true }, { same: true }, { same: true }]
      )
    })
  )

  it.effect("fails with the engine whose completion does not fit", () =>
    Effect.gen(function* () {
      const layer = Layer.succeed(Sampler, {
        name: "unversioned",
        engine: "unversioned",
        weights: { _tag: "Fixed" as const },
        sample: () =>
          Effect.succeed([
            {
              tokens: Uint32Array.of(1, 256),
              logprobs: new Float32Array(2),
              stopReason: "stop" as const,
              versions: new Uint32Array(1)
            }
          ])
      })
      const error = yield* draws().pipe(
        Rollout.groups({ environment: Environment.singleTurn({ maxTokens: 4 }), tokenizer, size: 1, seed: 1 }),
        Stream.runDrain,
        Effect.provide(layer),
        Effect.flip
      )
      assert.match(error.message, /has 2 tokens, but 2 log-probabilities and 1 versions/)
    })
  )
})

describe("an environment that fails", () => {
  const flaky = (fails: (task: number, attempt: number) => boolean) => {
    const attempts = new Map<string, number>()
    const environment: Environment.Environment<number> = {
      name: "flaky",
      maxTokens: 8,
      start: (task) =>
        Effect.succeed({
          step: (turn) =>
            Effect.suspend(() => {
              const key = `${task.id} ${turn.text}`
              const attempt = attempts.get(key) ?? 0
              attempts.set(key, attempt + 1)
              if (turn.text === "a1" && fails(task.data, attempt)) throw new Error("no such tool")
              return Effect.succeed({ done: true } as const)
            })
        })
    }
    return environment
  }
  const roll = (environment: Environment.Environment<number>, size: number) =>
    draws().pipe(
      Rollout.groups({ environment, tokenizer, size, seed: 1 }),
      Stream.runCollect,
      Effect.provide(SamplerScripted.layer({ tokenizer, reply: (_, index) => `a${index}` }))
    )

  it.effect("is tried again from a fresh episode, with the same tokens", () =>
    Effect.gen(function* () {
      const groups = yield* roll(
        flaky((_, attempt) => attempt === 0),
        3
      )
      assert.deepStrictEqual(
        groups.map(({ trajectories }) => trajectories.length),
        [3, 3, 3, 3, 3, 3]
      )
      assert.isTrue(groups.every(({ failures }) => failures === undefined))
    })
  )

  it.effect("costs its own trajectory and no sibling's", () =>
    Effect.gen(function* () {
      const groups = yield* roll(
        flaky((data) => data === 3),
        3
      )
      assert.deepStrictEqual(
        groups.map(({ trajectories }) => trajectories.length),
        [3, 3, 2, 3, 3, 3]
      )
      assert.deepStrictEqual(
        groups[2]!.trajectories.map(({ index }) => index),
        [0, 2]
      )
      assert.strictEqual(groups[2]!.failures!.length, 1)
      assert.include(groups[2]!.failures![0]!.message, "flaky failed on task t2: no such tool")
    })
  )

  it.effect("fails the stream when group after group is lost", () =>
    Effect.gen(function* () {
      const environment = { ...flaky(() => true), start: () => Effect.die("no docker") }
      const error = yield* draws({ epochs: 10 }).pipe(
        Rollout.groups({ environment, tokenizer, size: 2, seed: 1 }),
        Stream.runDrain,
        Effect.provide(SamplerScripted.layer({ tokenizer, reply: () => "" })),
        Effect.flip
      )
      assert.strictEqual(error._tag, "EnvironmentError")
      const few = yield* roll(environment, 2)
      assert.deepStrictEqual(
        few.map(({ failures }) => failures!.length),
        [2, 2, 2, 2, 2, 2]
      )
    })
  )

  it.live("is given up at its deadline, and the error says what was awaited", () =>
    Effect.gen(function* () {
      const environment: Environment.Environment = {
        name: "silent",
        maxTokens: 4,
        start: () => Effect.succeed({ step: () => Effect.never })
      }
      const [group] = yield* draws().pipe(
        Stream.take(1),
        Rollout.groups({ environment, tokenizer, size: 1, seed: 1, deadline: 20, retries: 0 }),
        Stream.runCollect,
        Effect.provide(SamplerScripted.layer({ tokenizer, reply: () => "" }))
      )
      assert.include(group!.failures![0]!.message, "turn 1 took more than 20 ms")
    })
  )
})

describe("the stage", () => {
  const environment = Environment.singleTurn({ maxTokens: 4 })

  it.effect("bounds what is in flight and keeps the order of the draws, whoever is done first", () =>
    Effect.gen(function* () {
      const gates = yield* Effect.forEach(Array(6).fill(0), () => Deferred.make<void>())
      let inFlight = 0
      let most = 0
      const layer = Layer.succeed(Sampler, {
        name: "gated",
        engine: "gated",
        weights: { _tag: "Fixed" },
        sample: ({ key, count }) =>
          Effect.gen(function* () {
            most = Math.max(most, ++inFlight)
            const number = Number(key.stream.slice(1, 2))
            // Later draws finish first: each waits for the next one within the window of three.
            if (number % 3 !== 2) yield* Deferred.await(gates[number + 1]!)
            yield* Deferred.succeed(gates[number]!, undefined)
            inFlight--
            const completion = {
              tokens: Uint32Array.of(number, 256),
              logprobs: new Float32Array(2),
              stopReason: "stop" as const,
              versions: new Uint32Array(2)
            }
            return Array.from({ length: count }, () => completion)
          })
      })
      const groups = yield* draws().pipe(
        Rollout.groups({ environment, tokenizer, size: 1, seed: 1, concurrency: 3 }),
        Stream.runCollect,
        Effect.provide(layer)
      )
      assert.deepStrictEqual(
        groups.map(({ cursor }) => cursor),
        [0, 1, 2, 3, 4, 5]
      )
      assert.strictEqual(most, 3)
    })
  )

  it.effect("interrupts the sampler's work with itself", () =>
    Effect.gen(function* () {
      const started = yield* Deferred.make<void>()
      const stopped = yield* Deferred.make<void>()
      const layer = Layer.succeed(Sampler, {
        name: "endless",
        engine: "endless",
        weights: { _tag: "Fixed" },
        sample: () =>
          Deferred.succeed(started, undefined).pipe(
            Effect.andThen(Effect.never),
            Effect.onInterrupt(() => Deferred.succeed(stopped, undefined))
          )
      })
      const fiber = yield* draws().pipe(
        Rollout.groups({ environment, tokenizer, size: 1, seed: 1 }),
        Stream.runDrain,
        Effect.provide(layer),
        Effect.forkChild
      )
      yield* Deferred.await(started)
      yield* Fiber.interrupt(fiber)
      assert.isTrue(yield* Deferred.isDone(stopped))
    })
  )

  it.effect("fails with the sampler", () =>
    Effect.gen(function* () {
      const layer = Layer.succeed(Sampler, {
        name: "short",
        engine: "short",
        weights: { _tag: "Fixed" },
        sample: () => Effect.succeed([])
      })
      const error = yield* draws().pipe(
        Rollout.groups({ environment, tokenizer, size: 2, seed: 1 }),
        Stream.runDrain,
        Effect.provide(layer),
        Effect.flip
      )
      assert.include(error.message, "asked for 2 completions of task t0, got 0")
    })
  )

  it.effect("gives the same tokens alone, in company, and after a resume", () =>
    Effect.gen(function* () {
      const digits = Tokenizer.characters("0123456789+=?")
      const model = tabular(digits.vocabularySize)
      const run = (from: number, concurrency: number) =>
        draws({ epochs: 3, from }).pipe(
          Rollout.groups({
            environment: Environment.singleTurn({ maxTokens: 6 }),
            tokenizer: digits,
            size: 4,
            seed: 9,
            concurrency
          }),
          Stream.map(({ trajectories }) =>
            trajectories.map((one) => ({ text: one.text, logprobs: [...only(one).logprobs] }))
          ),
          Stream.runCollect,
          Effect.provide(model.layer)
        )
      const whole = yield* run(0, 1)
      assert.deepStrictEqual(yield* run(0, 5), whole)
      assert.deepStrictEqual(yield* run(11, 5), whole.slice(11))
      assert.strictEqual(new Set(whole.flat().map(({ text }) => text)).size > 20, true)
    })
  )
})
