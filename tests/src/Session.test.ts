import { afterAll, assert, beforeAll, describe, it } from "vitest"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import { lookup } from "quintain/envs"
import * as Effect from "effect/Effect"
import { type Grpo, Loss, Policy, Progress, Sampler, Session, VerifierPool } from "quintain"

const task = lookup({ seed: 2 })
const model = {
  vocab_size: task.tokenizer.vocabularySize,
  hidden_size: 32,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  intermediate_size: 64
}
const open = (from: Session.SessionOptions["model"] = model) =>
  Session.open({ model: from, seed: 3, tokenizer: task.tokenizer })

const settings = (directory: string, steps: number): Grpo.GrpoOptions<{ readonly answer: string }> => ({
  ...task,
  directory,
  steps,
  groups: 4,
  size: 4,
  dropConstant: false,
  loss: Loss.withKl(Loss.clipped(), { coefficient: 0.1 }),
  update: { learningRate: 1e-2 },
  checkpointEvery: 2,
  progress: Progress.silent
})

const column = async (directory: string, name: string): Promise<ReadonlyArray<number>> =>
  (await fs.readFile(path.join(directory, "metrics.jsonl"), "utf8"))
    .trimEnd()
    .split("\n")
    .map((line) => (JSON.parse(line) as Record<string, number>)[name]!)

describe("Session", () => {
  let root: string
  beforeAll(async () => {
    root = await fs.mkdtemp(path.join(os.tmpdir(), "quintain-session-"))
  })
  afterAll(() => fs.rm(root, { recursive: true, force: true }))

  it("trains on demonstrations, samples what it learnt, and opens again from what it saved", async () => {
    const directory = path.join(root, "saved")
    const request = {
      prompt: task.tokenizer.encode("#1="),
      count: 1,
      maxTokens: 3,
      temperature: 0,
      key: { seed: 1, stream: "a", index: 0 }
    }
    {
      await using session = await open()
      const { losses } = await session.sft({
        demonstrations: [{ prompt: "#1=", completion: "123" }],
        steps: 60,
        update: { learningRate: 1e-2 }
      })
      assert.isBelow(losses.at(-1)!, 0.1)
      const [completion] = await session.sample(request)
      assert.strictEqual(task.tokenizer.decode(completion!.tokens), "123")
      await session.save(directory)
    }
    await using again = await open(directory)
    const [completion] = await again.sample(request)
    assert.strictEqual(task.tokenizer.decode(completion!.tokens), "123")
  })

  it("measures the distance from the same reference after a resume", async () => {
    const [whole, parts] = [path.join(root, "whole"), path.join(root, "parts")]
    for (const [directory, steps] of [
      [whole, 4],
      [parts, 2],
      [parts, 4]
    ] as const) {
      await using session = await open()
      const result = await session.grpo(settings(directory, steps))
      assert.strictEqual(result.steps, steps)
    }
    const kl = await column(whole, "kl")
    assert.isAbove(kl.at(-1)!, 0)
    assert.deepStrictEqual(await column(parts, "kl"), kl)
  })

  it("an aborted call is rejected, and the session goes on", async () => {
    await using session = await open()
    const abort = new AbortController()
    const run = session.grpo(
      { ...settings(path.join(root, "aborted"), 10_000), onStep: () => abort.abort() },
      { signal: abort.signal }
    )
    await run.then(
      () => assert.fail("the run was not aborted"),
      () => assert.isTrue(abort.signal.aborted)
    )
    const { environment, heldOut, reward } = task
    const { tasks } = await session.evaluate({ environment, reward, tasks: heldOut })
    assert.strictEqual(tasks, 10)
    const checkpoints = await fs.readdir(path.join(root, "aborted", "checkpoints"))
    assert.deepStrictEqual(checkpoints, ["step-000001"], "the step that was done when it was aborted")
  })

  it("runs any Effect on its engine and its verifier pool", async () => {
    await using session = await open()
    const program = Effect.gen(function* () {
      const { info } = yield* Policy.Policy
      const sampler = yield* Sampler.Sampler
      const pool = yield* VerifierPool.VerifierPool
      return { engine: info.engine, sampler: sampler.name, metrics: yield* pool.metrics }
    })
    const { engine, metrics, sampler } = await session.run(program)
    assert.deepStrictEqual([engine, sampler, metrics["verifiers/pool/calls"]], ["native", "native", 0])
    const refused = await session.run(Effect.fail("no")).then(
      () => "",
      (cause: unknown) => String(cause)
    )
    assert.include(refused, "no")
  })

  it("a wrong configuration is a typed error that names the field", async () => {
    const error = await Session.open({ model: { ...model, hidden_size: -1 } }).then(
      () => undefined,
      (cause: unknown) => cause as Error & { readonly _tag: string }
    )
    assert.strictEqual(error?._tag, "EngineError")
    assert.match(error!.message, /hidden_size/)
  })
})
