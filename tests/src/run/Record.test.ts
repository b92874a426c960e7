import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as FastCheck from "fast-check"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import { pathToFileURL } from "node:url"
import { Loss, PolicyNative, Record, Reward, Task, Tokenizer, Verifier } from "quintain"
import { lookup } from "quintain/envs"
import { identityOf } from "../../../src/score/identityOf.ts"
import { trajectoryLines } from "../../../src/run/internal/trajectoryLines.ts"
import * as Groups from "../../fixtures/groups.ts"

const folder = Effect.acquireRelease(
  Effect.promise(() => fs.mkdtemp(path.join(os.tmpdir(), "quintain-record-"))),
  (made) => Effect.promise(() => fs.rm(made, { recursive: true, force: true }))
)

const ids = FastCheck.uint32Array({ minLength: 1, maxLength: 40 })
const float = FastCheck.float({ noNaN: true })
const record: FastCheck.Arbitrary<Record.TrajectoryRecord> = ids.chain((tokens) =>
  FastCheck.record({
    task: FastCheck.string(),
    index: FastCheck.nat(),
    reward: FastCheck.option(FastCheck.double()),
    advantage: FastCheck.oneof(FastCheck.constant(null), FastCheck.double(), FastCheck.float64Array()),
    outcomes: FastCheck.dictionary(
      FastCheck.string(),
      FastCheck.oneof(
        FastCheck.record({
          _tag: FastCheck.constant("Scored" as const),
          score: FastCheck.double(),
          tokenScores: FastCheck.float64Array()
        }),
        FastCheck.record({ _tag: FastCheck.constant("Unscorable" as const), reason: FastCheck.string() })
      )
    ),
    metrics: FastCheck.dictionary(FastCheck.string(), FastCheck.double()),
    stopReason: FastCheck.constantFrom("stop", "length", "context", "environment"),
    text: FastCheck.string({ unit: "binary" }),
    turns: FastCheck.array(
      FastCheck.record({
        branch: FastCheck.constant(0),
        start: FastCheck.nat(),
        end: FastCheck.nat(),
        text: FastCheck.string(),
        stopReason: FastCheck.constantFrom("stop", "length", "context"),
        temperature: float,
        reward: float,
        calls: FastCheck.constant([{ name: "add", arguments: { a: 1 } }]),
        seconds: FastCheck.record({ sample: float, environment: float })
      })
    ),
    promptLength: FastCheck.nat(),
    branches: FastCheck.record({
      parent: FastCheck.constant({ branch: 0, length: 3 }),
      tokens: FastCheck.constant(tokens),
      producer: FastCheck.constant(Uint8Array.from(tokens, (token) => token % 3)),
      logprobs: FastCheck.float32Array({ minLength: tokens.length, maxLength: tokens.length }),
      versions: FastCheck.constant(Uint32Array.from(tokens, (token) => token & 3))
    }).map((branch) => [branch] as const),
    seconds: FastCheck.record({ sample: float, environment: float }),
    info: FastCheck.constant({ tries: 3, log: ["a", null, { deep: true }] })
  })
)

describe("a line of trajectories", () => {
  const Line = Schema.fromJsonString(Schema.toCodecJson(Record.TrajectoryRecord))
  const [encode, decode] = [Schema.encodeSync(Line), Schema.decodeSync(Line)]

  it("is read as it was written", () => {
    // JSON has no -0.
    const plain = (value: unknown): unknown =>
      typeof value === "number"
        ? value + 0
        : typeof value !== "object" || value === null || ArrayBuffer.isView(value)
          ? value
          : Array.isArray(value)
            ? value.map(plain)
            : Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]))
    FastCheck.assert(
      FastCheck.property(record, (value) => {
        assert.deepStrictEqual(plain(decode(encode(value))), plain(value))
      })
    )
  })

  it("takes little room for its arrays, and versions as runs", () => {
    const group = Groups.scoredGroup([
      {
        reward: 1,
        tokens: Array.from({ length: 1000 }, (_, i) => i * 40),
        logprobs: Array<number>(1000).fill(-1.2345678)
      }
    ])
    const line = trajectoryLines([{ ...group, advantages: [0.5] }])
    assert.isBelow(line.length / 1002, 14)
    const { branches } = JSON.parse(line) as { readonly branches: ReadonlyArray<{ readonly versions: unknown }> }
    assert.deepStrictEqual(branches[0]!.versions, [[0, 1002]])
  })

  it.live("is read from a file in order, and a broken line is named", () =>
    Effect.gen(function* () {
      const file = path.join(yield* folder, "step-000001.jsonl")
      const lines = trajectoryLines([
        Groups.rewarded(1, undefined),
        { ...Groups.rewarded(0.5), advantages: [Float64Array.of(1, 2, 3)] }
      ])
      yield* Effect.promise(() => fs.writeFile(file, lines))
      const read = yield* Stream.runCollect(Record.readTrajectories(file))
      assert.deepStrictEqual(
        read.map(({ advantage, index, reward }) => [index, reward, advantage]),
        [
          [0, 1, null],
          [1, null, null],
          [0, 0.5, Float64Array.of(1, 2, 3)]
        ]
      )
      assert.deepStrictEqual(read[0]!.branches[0].tokens, Uint32Array.of(7, 8, 1, 2, 3))
      yield* Effect.promise(() => fs.appendFile(file, '{"task":"cut'))
      const error = yield* Effect.flip(Stream.runDrain(Record.readTrajectories(file)))
      assert.match(error.message, /step-000001.jsonl, line 4/)
      const absent = yield* Effect.flip(Stream.runDrain(Record.readTrajectories(`${file}.gone`)))
      assert.match(absent.message, /ENOENT/)
    })
  )
})

describe("Record.make", () => {
  const { environment, reward, tasks, tokenizer } = lookup({ seed: 1 })
  const model = { vocab_size: 16, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64 }
  const make = (parts: Partial<Record.Parts>, options: Partial<PolicyNative.NativeOptions> = {}) =>
    Record.make({ name: "test", ...parts }).pipe(Effect.provide(PolicyNative.layer({ model, seed: 1, ...options })))

  it.live("names every part, as its schema says", () =>
    Effect.gen(function* () {
      const mine = Loss.withKl(Loss.clipped(), { coefficient: 0.1 })
      const made = yield* make({
        loss: mine,
        update: { learningRate: 1e-3, epochs: 2 },
        tasks,
        heldOut: tasks,
        environment,
        reward,
        tokenizer,
        settings: { seed: 3, sampling: { temperature: 1 } }
      })
      const json = JSON.parse(JSON.stringify(made)) as unknown
      assert.deepStrictEqual(Schema.decodeUnknownSync(Record.RunRecord)(json), made)
      assert.strictEqual(made.data.tasks?.count, 10)
      assert.match(made.data.tasks?.sha256 ?? "", /^[0-9a-f]{64}$/)
      assert.deepStrictEqual(made.data.heldOut, made.data.tasks)
      assert.strictEqual(made.data.environment?.name, "lookup")
      assert.strictEqual(made.data.environment?.settings["maxTokens"], environment.maxTokens)
      assert.deepStrictEqual(made.algorithm.update?.["learningRate"], { name: "constant", settings: { value: 1e-3 } })
      assert.strictEqual(made.versions.quintain, "0.1.0")
      assert.isNull(made.adapter)
    })
  )

  it.live("tells random models apart by configuration and seed, and describes the adapter", () =>
    Effect.gen(function* () {
      const hash = (options: Partial<PolicyNative.NativeOptions>) =>
        Effect.map(make({}, options), (made) => made.model.hash)
      const one = yield* hash({})
      assert.strictEqual(yield* hash({}), one)
      assert.notStrictEqual(yield* hash({ seed: 2 }), one)
      assert.notStrictEqual(yield* hash({ model: { ...model, rms_norm_eps: 1e-3 } }), one)
      const { adapter } = yield* make({}, { lora: { rank: 4 } })
      assert.deepInclude(adapter, { rank: 4, alpha: 8 })
      assert.notProperty(adapter, "version")
    })
  )

  it.live("tells files apart by a few blocks, and the same files elsewhere are the same", () =>
    Effect.gen(function* () {
      const from = path.join(import.meta.dirname, "../../fixtures/checkpoints/llama")
      const to = path.join(yield* folder, "copy")
      yield* Effect.promise(() => fs.cp(from, to, { recursive: true }))
      const hash = (folder: string) => Effect.map(make({}, { model: folder }), (made) => made.model.hash)
      assert.strictEqual(yield* hash(to), yield* hash(from))
      const weights = path.join(to, "model.safetensors")
      const bytes = yield* Effect.promise(() => fs.readFile(weights))
      bytes[bytes.length - 1]! ^= 1
      yield* Effect.promise(() => fs.writeFile(weights, bytes))
      assert.notStrictEqual(yield* hash(to), yield* hash(from))
    })
  )

  it.live("hashes ids and prompts of finite tasks, and names generators", () =>
    Effect.gen(function* () {
      const of = (source: Task.Source) => Effect.map(make({ tasks: source }), (made) => made.data.tasks)
      const array = (prompt: string) => Task.fromArray([{ id: "a", prompt, data: 1 }])
      assert.notStrictEqual((yield* of(array("x")))?.sha256, (yield* of(array("y")))?.sha256)
      const endless = Task.generate("sums", (i) => ({ id: `${i}`, prompt: "", data: i }))
      assert.deepStrictEqual(yield* of(endless), { name: "sums" })
    })
  )

  it.live("tells tokenizers of one size apart", () =>
    Effect.gen(function* () {
      const of = (alphabet: string) =>
        Effect.map(make({ tokenizer: Tokenizer.characters(alphabet) }), (made) => made.data.tokenizer)
      assert.deepStrictEqual(yield* of("abc"), yield* of("abc"))
      assert.notDeepEqual(yield* of("abc"), yield* of("abd"))
    })
  )
})

describe("the identity of a reward", () => {
  const exact = () => 1

  it("is its composition: names, roles, weights and verifiers", () => {
    const reward = Reward.all({
      format: Reward.gate(exact),
      answer: Reward.weight(0.5, exact),
      length: Reward.metric(exact)
    })
    const of = { name: "exact", settings: {}, opaque: true }
    assert.deepStrictEqual(identityOf(reward), {
      name: "all",
      settings: {
        format: { name: "gate", settings: { of } },
        answer: { name: "weight", settings: { weight: 0.5, of } },
        length: { name: "metric", settings: { of } }
      }
    })
    assert.notDeepEqual(identityOf(Reward.weight(2, exact)), identityOf(exact))
  })

  it.live("names a worker's module by its project or package, not by the machine's folders", () =>
    Effect.gen(function* () {
      const module = (file: string) =>
        identityOf(Verifier.worker({ module: pathToFileURL(file), options: { strict: true } }))
      const settings = (name: string) => ({ module: name, export: "default", options: { strict: true } })
      const root = yield* folder
      for (const project of ["one", "two"]) {
        const at = path.join(root, project)
        yield* Effect.promise(() => fs.mkdir(path.join(at, "src"), { recursive: true }))
        yield* Effect.promise(() => fs.writeFile(path.join(at, "package.json"), "{}"))
        assert.deepStrictEqual(module(path.join(at, "src/proof.ts")), {
          name: "worker",
          settings: settings("./src/proof.ts")
        })
      }
      const installed = path.join(root, "one/node_modules/quintain/dist/rewards/index.js")
      assert.deepStrictEqual(module(installed), {
        name: "worker",
        settings: settings("quintain/dist/rewards/index.js")
      })
    })
  )
})
