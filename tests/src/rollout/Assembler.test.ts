import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import type { Completion } from "../../../src/engine/Sampler.ts"
import * as Assembler from "../../../src/rollout/Assembler.ts"
import * as Trajectory from "../../../src/rollout/Trajectory.ts"
import * as Tokenizer from "../../../src/text/Tokenizer.ts"

const task = { id: "t", prompt: "", data: undefined }
const tokenizer = Tokenizer.bytes()
const { Environment: E, Policy: P, Template: T } = Trajectory.Producer

const said = (tokens: ReadonlyArray<number>, version = 0): Completion => ({
  tokens: Uint32Array.from(tokens),
  logprobs: Float32Array.from(tokens, (token) => -token),
  stopReason: "stop",
  versions: new Uint32Array(tokens.length).fill(version)
})
const facts = { temperature: 1, seconds: 0.5 }
const context = (...tokens: ReadonlyArray<number>) => Uint32Array.from(tokens)
const shape = ({ branches }: Trajectory.Trajectory) =>
  branches.map(({ parent, tokens }) => ({ parent, tokens: [...tokens] }))

describe("Assembler", () => {
  it("appends what continues a branch, with producers, versions and facts", () => {
    const assembler = Assembler.open(task, 3, context(1, 2), tokenizer)
    const first = assembler.sampled(context(1, 2), said([65, 66], 4), { temperature: 0.5, seconds: 0.5 })
    assembler.answered(first, { reward: 1, metrics: { seen: 2 }, seconds: 2 })
    const calls = [{ function: { name: "add", arguments: {} } }]
    const producers = Uint8Array.of(T, E)
    assembler.sampled(context(1, 2, 65, 66, 9, 8, 7), said([67], 5), { ...facts, calls, producers })
    const made = assembler.end({ stopReason: "length", reward: 2, info: { a: 1 }, metrics: { b: 2 }, seconds: 1 })
    assert.deepStrictEqual(shape(made), [{ parent: undefined, tokens: [1, 2, 65, 66, 9, 8, 7, 67] }])
    const [branch] = made.branches
    assert.deepStrictEqual([...branch.producer], [T, T, P, P, E, T, E, P])
    assert.deepStrictEqual([...branch.logprobs], [0, 0, -65, -66, 0, 0, 0, -67])
    assert.deepStrictEqual([...branch.versions], [0, 0, 4, 4, 0, 0, 0, 5])
    assert.deepStrictEqual(Trajectory.staleness(made, 5), { mean: 2 / 3, max: 1 })
    assert.deepStrictEqual(made.turns, [
      {
        branch: 0,
        start: 2,
        end: 4,
        text: "AB",
        stopReason: "stop",
        temperature: 0.5,
        reward: 1,
        metrics: { seen: 2 },
        seconds: { sample: 0.5, environment: 2 }
      },
      {
        branch: 0,
        start: 7,
        end: 8,
        text: "C",
        stopReason: "stop",
        temperature: 1,
        reward: 2,
        calls,
        seconds: { sample: 0.5, environment: 0 }
      }
    ])
    const { index, info, metrics, promptLength, seconds, stopReason } = made
    assert.deepStrictEqual([index, promptLength, stopReason], [3, 2, "length"])
    assert.deepStrictEqual([info, metrics, seconds], [{ a: 1 }, { b: 2 }, { sample: 1, environment: 3 }])
  })

  it("leaves a branch where the context does, and begins another where nothing is shared", () => {
    const assembler = Assembler.open(task, 0, context(1, 2), tokenizer)
    assembler.sampled(context(1, 2), said([3, 4]), facts)
    // A token of the first turn is gone.
    assembler.sampled(context(1, 2, 3, 9), said([5]), facts)
    // The same context again: two answers to one question.
    assembler.sampled(context(1, 2), said([6]), facts)
    assembler.sampled(context(8), said([7]), facts)
    // Continues the second branch, beyond the first.
    assembler.sampled(context(1, 2, 3, 9, 5, 10), said([11]), facts)
    assert.deepStrictEqual(shape(assembler.end({ stopReason: "stop" })), [
      { parent: undefined, tokens: [1, 2, 3, 4] },
      { parent: { branch: 0, length: 3 }, tokens: [9, 5, 10, 11] },
      { parent: { branch: 0, length: 2 }, tokens: [6] },
      { parent: undefined, tokens: [8, 7] }
    ])
  })

  it("holds every call exactly: its context, its tokens, each policy token once", () => {
    const tokens = fc.array(fc.nat(1), { maxLength: 6 })
    fc.assert(
      fc.property(
        fc.array(fc.nat(1), { minLength: 1, maxLength: 3 }),
        fc.array(fc.record({ from: fc.nat(8), cut: fc.nat(12), more: tokens, said: tokens }), { maxLength: 8 }),
        (prompt, calls) => {
          const assembler = Assembler.open(task, 0, Uint32Array.from(prompt), tokenizer)
          const seen: Array<ReadonlyArray<number>> = [prompt]
          const contexts = calls.map(({ cut, from, more, said: answer }, call) => {
            // A prefix of what came before, or all of it, and something else.
            const before = [...seen[from % seen.length]!.slice(0, cut), ...more]
            assert.strictEqual(assembler.sampled(Uint32Array.from(before), said(answer, call), facts), call)
            seen.push([...before, ...answer])
            return before
          })
          const made = assembler.end({ stopReason: "stop" })
          const spans = Trajectory.spans(made)
          spans.forEach(({ branch, end, start }, call) => {
            const whole = Trajectory.tokensOf(made, branch)
            assert.deepStrictEqual([...whole.subarray(0, start)], contexts[call])
            assert.deepStrictEqual([...whole.subarray(start, end)], calls[call]!.said)
          })
          const sampled = calls.reduce((sum, call) => sum + call.said.length, 0)
          const policy = made.branches.flatMap(({ producer }) => Array.from(producer)).filter((by) => by === P)
          assert.strictEqual(policy.length, sampled)
          assert.strictEqual(made.branches.reduce((sum, { producer }) => sum + producer.length, 0) >= sampled, true)
        }
      ),
      { numRuns: 500 }
    )
  })

  it("refuses an answer to a turn that was not sampled", () => {
    const assembler = Assembler.open(task, 0, context(1), tokenizer)
    assert.throws(() => assembler.answered(0, {}), /Assembler.answered: turn is 0; expected no call/)
  })
})
