import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as fc from "fast-check"
import * as Fs from "node:fs/promises"
import * as Os from "node:os"
import * as Path from "node:path"
import { permutation } from "../../../src/internal/random.ts"
import * as Task from "../../../src/data/Task.ts"

const numbered = (n: number) => Array.from({ length: n }, (_, i) => ({ id: `t${i}`, prompt: `${i}?`, data: i }))

const draw = <Data>(source: Task.Source<Data>, options: Task.StreamOptions, count: number) =>
  Task.stream(source, options).pipe(Stream.take(count), Stream.runCollect)

const file = Effect.fnUntraced(function* (text: string) {
  const folder = yield* Effect.acquireRelease(
    Effect.promise(() => Fs.mkdtemp(Path.join(Os.tmpdir(), "quintain-"))),
    (path) => Effect.promise(() => Fs.rm(path, { recursive: true }))
  )
  const path = Path.join(folder, "tasks.jsonl")
  yield* Effect.promise(() => Fs.writeFile(path, text))
  return path
})

describe("stream", () => {
  it.effect("draws every task once an epoch, in another order each epoch, the same for the same seed", () =>
    Effect.gen(function* () {
      const source = Task.fromArray(numbered(50))
      const draws = yield* draw(source, { seed: 3 }, 150)
      const epochs = [0, 1, 2].map((epoch) => draws.filter((drawn) => drawn.epoch === epoch).map(({ task }) => task.id))
      for (const ids of epochs) assert.strictEqual(new Set(ids).size, 50)
      assert.notDeepEqual(epochs[0], epochs[1])
      assert.notDeepEqual(epochs[1], epochs[2])
      assert.deepStrictEqual(yield* draw(source, { seed: 3 }, 150), draws)
      assert.notDeepEqual(yield* draw(source, { seed: 4 }, 150), draws)
      assert.deepStrictEqual(
        draws.map((drawn) => drawn.cursor),
        Array.from({ length: 150 }, (_, i) => i)
      )
    })
  )

  it.effect("resumes at any cursor, without making the tasks before it", () =>
    Effect.gen(function* () {
      const source = Task.fromArray(numbered(7))
      const whole = yield* draw(source, { seed: 1 }, 40)
      for (const from of [0, 1, 6, 7, 20, 33]) {
        assert.deepStrictEqual(yield* draw(source, { seed: 1, from }, 40 - from), whole.slice(from))
      }
      const made: Array<number> = []
      const counted = Task.generate("counted", (index) => {
        made.push(index)
        return { id: String(index), prompt: "", data: index }
      })
      yield* draw(counted, { seed: 1, from: 1000 }, 3)
      assert.deepStrictEqual(made, [1000, 1001, 1002])
    })
  )

  it.effect("ends after its epochs, and keeps the order of the source when asked", () =>
    Effect.gen(function* () {
      const source = Task.fromArray(numbered(5))
      const draws = yield* Stream.runCollect(Task.stream(source, { seed: 1, epochs: 2, shuffle: false }))
      assert.deepStrictEqual(
        draws.map(({ task }) => task.data),
        [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
      )
    })
  )

  it.effect("refuses duplicate ids and empty sources", () =>
    Effect.gen(function* () {
      const twice = yield* Effect.flip(draw(Task.fromArray([...numbered(3), numbered(1)[0]!]), { seed: 1 }, 1))
      assert.strictEqual(twice.place, "index 3")
      assert.strictEqual(twice.value, '"t0"')
      assert.include(twice.message, "index 0")
      const none = yield* Effect.flip(draw(Task.fromArray([]), { seed: 1 }, 1))
      assert.include(none.message, "holds no task")
    })
  )
})

describe("permutation", () => {
  it("is a permutation", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 300 }), fc.string(), (length, label) => {
        assert.deepStrictEqual(
          [...permutation(length, label)].toSorted((a, b) => a - b),
          [...Array(length).keys()]
        )
      })
    )
  })

  it("is uniform: each element lands in each place about equally often", () => {
    const counts = Array.from({ length: 5 }, () => new Uint32Array(5))
    const runs = 5000
    for (let seed = 0; seed < runs; seed++) {
      permutation(5, `epoch 0 of ${seed}`).forEach((element, place) => counts[element]![place]!++)
    }
    // 99.99 % quantile of chi-squared with 16 degrees of freedom; the seeds are fixed, so this cannot flicker.
    const expected = runs / 5
    const chi2 = counts.flatMap((row) => [...row]).reduce((sum, n) => sum + (n - expected) ** 2 / expected, 0)
    assert.isBelow(chi2, 44.2)
  })

  it("never changes: recorded runs resume by it", () => {
    assert.deepStrictEqual([...permutation(10, "epoch 0 of 1")], [2, 7, 6, 0, 4, 1, 5, 9, 8, 3])
  })
})

describe("split", () => {
  it.effect("parts a finite source by share or by count, at random, without loss or overlap", () =>
    Effect.gen(function* () {
      const source = Task.fromArray(numbered(40))
      for (const [heldOut, count] of [
        [0.25, 10],
        [7, 7]
      ] as const) {
        const parts = Task.split(source, { heldOut, seed: 2 })
        const ids = (tasks: Task.Tasks) => Array.from({ length: tasks.length }, (_, i) => tasks.at(i)!.id)
        const train = ids(yield* parts.train.load)
        const aside = ids(yield* parts.heldOut.load)
        assert.strictEqual(aside.length, count)
        assert.deepStrictEqual(
          [...train, ...aside].toSorted(),
          numbered(40)
            .map(({ id }) => id)
            .toSorted()
        )
        assert.notDeepEqual(
          aside,
          numbered(count).map(({ id }) => id)
        )
        assert.deepStrictEqual(ids(yield* Task.split(source, { heldOut, seed: 2 }).heldOut.load), aside)
      }
    })
  )

  it.effect("keeps held-out problems of a small generated space out of training", () =>
    Effect.gen(function* () {
      const sums = Task.generate("sums", (i) => ({
        id: `s${i}`,
        prompt: `${(i * 7) % 23}+1=?`,
        data: ((i * 7) % 23) + 1
      }))
      const parts = Task.split(sums, { heldOut: 5, seed: 1 })
      const aside = yield* Task.stream(parts.heldOut, { seed: 1, epochs: 1 }).pipe(Stream.runCollect)
      const train = yield* draw(parts.train, { seed: 1 }, 200)
      const reserved = new Set(aside.map(({ task }) => task.prompt))
      assert.strictEqual(reserved.size, 5)
      assert.strictEqual(new Set(train.map(({ task }) => task.prompt)).size, 18)
      assert.isFalse(train.some(({ task }) => reserved.has(task.prompt)))
      assert.strictEqual(new Set(train.map(({ cursor }) => cursor)).size, 200)
      // Positions passed over keep their number, so a resumed stream goes on as if never stopped.
      const resumed = yield* draw(parts.train, { seed: 1, from: train[99]!.cursor + 1 }, 100)
      assert.deepStrictEqual(resumed, train.slice(100))
    })
  )

  it.effect("says what is wrong with a split that cannot be", () =>
    Effect.gen(function* () {
      const endless = Task.generate("endless", (i) => ({ id: `${i}`, prompt: "same", data: 0 }))
      const share = yield* Effect.flip(Task.split(endless, { heldOut: 0.1, seed: 1 }).train.load)
      assert.include(share.message, "Give the number of tasks")
      const whole = yield* Effect.flip(Task.split(Task.fromArray(numbered(3)), { heldOut: 3, seed: 1 }).train.load)
      assert.include(whole.message, "leaves one side empty")
      const nothingLeft = yield* Effect.flip(draw(Task.split(endless, { heldOut: 1, seed: 1 }).train, { seed: 1 }, 1))
      assert.include(nothingLeft.message, "Hold out fewer tasks")
    })
  )
})

describe("jsonl", () => {
  const Data = Schema.Struct({ answer: Schema.Struct({ value: Schema.Int }) })

  it.effect("reads conversations with tool calls and tools", () =>
    Effect.gen(function* () {
      const call = { id: "c1", type: "function", function: { name: "add", arguments: { a: 1, b: 2 } } }
      const tool = { type: "function", function: { name: "add", parameters: { type: "object" } } }
      const messages = [
        { role: "user", content: "1+2?", tool_calls: null },
        { role: "assistant", tool_calls: [call] },
        { role: "tool", content: "3", name: "add", tool_call_id: "c1" }
      ]
      const path = yield* file(
        [
          { prompt: messages, tools: [tool] },
          { prompt: messages, tools: JSON.stringify([tool]) },
          { prompt: { messages, tools: [tool] } },
          { prompt: messages, tools: null },
          { prompt: messages, chat_template_kwargs: { enable_thinking: false } }
        ]
          .map((row) => JSON.stringify(row))
          .join("\n")
      )
      const tasks = yield* Task.jsonl(path).load
      const read = [
        { role: "user", content: "1+2?" },
        { role: "assistant", content: null, tool_calls: [call] },
        { role: "tool", content: "3", name: "add", tool_call_id: "c1" }
      ]
      for (const index of [0, 1, 2]) {
        assert.deepStrictEqual<unknown>(tasks.at(index)!.prompt, { messages: read, tools: [tool] })
      }
      assert.deepStrictEqual<unknown>(tasks.at(3)!.prompt, read)
      const variables = { chat_template_kwargs: { enable_thinking: false } }
      assert.deepStrictEqual<unknown>(tasks.at(4)!.prompt, { messages: read, ...variables })
      const untouched = yield* Task.jsonl(path, Schema.Unknown, { tools: false }).load
      assert.deepStrictEqual<unknown>(untouched.at(0)!.prompt, read)
    })
  )

  it.effect("says which part of a conversation is wrong", () =>
    Effect.gen(function* () {
      const silent = yield* file(JSON.stringify({ prompt: [{ role: "user", content: null }] }))
      const first = yield* Effect.flip(Task.jsonl(silent).load)
      assert.strictEqual(first.place, "line 1")
      assert.match(first.field, /^prompt/)
      const tools = yield* file(JSON.stringify({ prompt: [{ role: "user", content: "hi" }], tools: ["add"] }))
      const second = yield* Effect.flip(Task.jsonl(tools).load)
      assert.match(second.field, /^tools/)
      assert.match(second.remedy, /options\.tools: false/)
    })
  )

  it.effect("reads prompts of every kind, ids and decoded data", () =>
    Effect.gen(function* () {
      const path = yield* file(
        [
          '{"id":"a","prompt":"1+1=?","answer":{"value":2},"note":"kept out by the schema"}',
          "",
          '{"id":7,"prompt":[{"role":"user","content":"hi"}],"answer":{"value":3}}\r',
          '{"prompt":[5,6],"answer":{"value":4}}'
        ].join("\n")
      )
      const tasks = yield* Task.jsonl(path, Data).load
      assert.strictEqual(tasks.length, 3)
      assert.deepStrictEqual(tasks.at(0), { id: "a", prompt: "1+1=?", data: { answer: { value: 2 } } })
      assert.deepStrictEqual(tasks.at(1)!.prompt, [{ role: "user", content: "hi" }])
      assert.strictEqual(tasks.at(1)!.id, "7")
      assert.deepStrictEqual(tasks.at(2), {
        id: "line 4",
        prompt: Uint32Array.of(5, 6),
        data: { answer: { value: 4 } }
      })
      const raw = yield* Task.jsonl(path).load
      assert.strictEqual(raw.at(0)!.data["note"], "kept out by the schema")
      const made = yield* Task.jsonl(path, Data, { prompt: ({ answer }) => `make ${answer.value}` }).load
      assert.strictEqual(made.at(0)!.prompt, "make 2")
    })
  )

  const wrong: ReadonlyArray<readonly [string, string, Partial<Task.TaskError>]> = [
    ["no JSON", "{,}", { place: "line 2", value: '"{,}"' }],
    ["no object", "[1]", { place: "line 2", value: "[1]" }],
    ["a wrong field", '{"prompt":"","answer":{"value":"x"}}', { place: "line 2", field: "answer.value", value: '"x"' }],
    ["a missing field", '{"prompt":""}', { place: "line 2", field: "answer", value: "" }],
    ["a wrong prompt", '{"prompt":true,"answer":{"value":1}}', { place: "line 2", field: "prompt", value: "true" }],
    ["no prompt", '{"answer":{"value":1}}', { place: "line 2", field: "prompt", value: "" }],
    ["a used id", '{"id":"a","prompt":"","answer":{"value":1}}', { place: "line 2", field: "id", value: '"a"' }]
  ]
  it.effect.each(wrong)("names file, line, field and value of %s", ([, line, expected]) =>
    Effect.gen(function* () {
      const path = yield* file(`{"id":"a","prompt":"","answer":{"value":1}}\n${line}\n`)
      const error = yield* Effect.flip(Task.jsonl(path, Data).load)
      assert.strictEqual(error.source, path)
      for (const [key, value] of Object.entries(expected)) assert.strictEqual(error[key as keyof Task.TaskError], value)
      for (const part of [path, error.place, error.remedy]) assert.include(error.message, part)
      assert.isAbove(error.remedy.length, 10)
    })
  )

  it.effect("says so when the file is not there", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(Task.jsonl("no/such/file.jsonl").load)
      assert.include(error.message, "no/such/file.jsonl: cannot be read")
    })
  )
})
