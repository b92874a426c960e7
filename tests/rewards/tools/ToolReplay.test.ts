import { assert, describe, it } from "@effect/vitest"
import fc from "fast-check"
import {
  parseToolCalls,
  recordedTools,
  toolReplay,
  type Recording,
  type Tool,
  type ToolCall,
  type ToolReplayOptions
} from "../../../rewards/index.ts"
import type { Scored, Unscorable } from "../../../src/score/Verifier.ts"
import { trajectory } from "../../fixtures/trajectories.ts"

interface Data {
  readonly calls: ReadonlyArray<ToolCall>
}

const call = (name: string, args: Readonly<Record<string, unknown>>): ToolCall => ({ name, arguments: args })
const tools: Record<string, Tool<any>> = {
  add: ({ a, b }) => Number(a) + Number(b),
  fail: () => {
    throw new Error("no")
  }
}

const judge = <State = undefined>(
  calls: ReadonlyArray<ToolCall>,
  text: unknown,
  options: Partial<ToolReplayOptions<Data, State>> = {}
): Omit<Scored, "_tag"> & Partial<Unscorable> =>
  toolReplay<Data, State>({ tools, ...options })({
    task: { id: "t", prompt: "", data: { calls } },
    trajectory: trajectory(typeof text === "string" ? text : JSON.stringify(text)),
    signal: new AbortController().signal
  }) as Omit<Scored, "_tag">

const sum = [call("add", { a: 12, b: 7 })]

describe("toolReplay", () => {
  it("compares what calls do", () => {
    assert.deepInclude(judge(sum, call("add", { a: 12, b: 7 })), { score: 1, reason: "as expected" })
    assert.strictEqual(judge(sum, call("add", { a: 7, b: 12 })).score, 1)
    assert.deepInclude(judge(sum, call("add", { a: 7, b: 11 })), { score: 0, reason: "call 1: another result" })
    assert.deepInclude(judge(sum, [...sum, ...sum]), { score: 0, reason: "call 2: not expected" })
    assert.deepInclude(judge([...sum, ...sum], sum), { score: 0, reason: "call 2: missing" })
    assert.strictEqual(judge(sum, call("add", { a: 7, b: 12 }), { exact: true }).score, 0)
    assert.strictEqual(judge(sum, call("add", { b: 7, a: 12 }), { exact: true }).score, 1)
  })

  it("compares the final state", () => {
    interface Bank {
      accounts: Record<string, number>
    }
    const bank: Partial<ToolReplayOptions<Data, Bank>> = {
      state: () => ({ accounts: { a: 10, b: 0 } }),
      tools: {
        move: ({ from, to, amount }, state) => {
          if (!Object.hasOwn(state.accounts, String(from)) || !Object.hasOwn(state.accounts, String(to)))
            throw new Error("no account")
          state.accounts[String(from)]! -= Number(amount)
          state.accounts[String(to)]! += Number(amount)
          return "ok"
        }
      }
    }
    const move = (amount: number) => call("move", { from: "a", to: "b", amount })
    assert.strictEqual(judge([move(1), move(2)], [move(2), move(1)], bank).score, 1)
    assert.deepInclude(judge([move(1), move(2)], [move(2), move(2)], bank), {
      score: 0,
      reason: "the final state differs"
    })
    assert.strictEqual(judge([move(1), move(2)], [move(2), move(2)], { ...bank, score: "share" }).score, 2 / 3)
    assert.strictEqual(judge([move(1), move(2)], [move(1)], { ...bank, score: "share" }).score, 1 / 3)
    const stolen = judge([move(1)], call("move", { from: "a", to: "__proto__", amount: 1 }), bank)
    assert.deepInclude(stolen, { score: 0 })
    assert.match(stolen.reason!, /move failed: no account/)
  })

  it("names of the prototype are no tools", () => {
    for (const name of ["__proto__", "constructor", "toString", "hasOwnProperty", "valueOf"]) {
      const verdict = judge(sum, `{"name":"${name}","arguments":{}}`)
      assert.deepInclude(verdict, { score: 0, reason: `call 1: unknown tool "${name}"` })
      assert.strictEqual(judge(sum, call(name, {}), { tools: new Map(Object.entries(tools)) }).score, 0)
    }
    assert.strictEqual(judge(sum, '{"name":"add","arguments":{"__proto__":{"a":12,"b":7}}}').score, 0)
    assert.isUndefined(({} as Record<string, unknown>)["a"])
  })

  it("a failing call is the policy's fault, a failing expected call the task's", () => {
    assert.deepInclude(judge(sum, call("fail", {})), { score: 0, reason: "call 1: fail failed: no" })
    assert.deepInclude(judge([call("fail", {})], sum), { _tag: "Unscorable" })
    assert.throws(() => judge(undefined as never, sum), /no data.calls/)
  })

  it("neither arguments nor results are shared with the tools", () => {
    const kept: Array<Record<string, unknown>> = []
    const greedy: Record<string, Tool<any>> = {
      keep: (args) => {
        kept.push(args as Record<string, unknown>)
        for (const one of kept) one["list"] = []
        return args["list"]
      }
    }
    const calls = [call("keep", { list: [1] }), call("keep", { list: [2] })]
    assert.strictEqual(judge(calls, calls, { tools: greedy }).score, 1)
    assert.deepStrictEqual(calls[0]!.arguments, { list: [1] })
  })

  it("replays recordings", () => {
    const recordings: ReadonlyArray<Recording> = [
      { ...call("weather", { city: "Rome" }), result: { sun: true } },
      { ...call("weather", { city: "Oslo" }), result: { sun: false } }
    ]
    const recorded = { tools: () => recordedTools(recordings) }
    assert.strictEqual(judge([recordings[1]!], call("weather", { city: "Oslo" }), recorded).score, 1)
    assert.strictEqual(judge([recordings[1]!], call("weather", { city: "Rome" }), recorded).score, 0)
    assert.match(judge([recordings[1]!], call("weather", { city: "Bonn" }), recorded).reason!, /nothing was recorded/)
  })

  it("bounds the number of calls", () => {
    assert.match(judge(sum, Array(33).fill(sum[0])).reason!, /33 calls, at most 32/)
  })
})

describe("parseToolCalls", () => {
  const add = call("add", { a: 1, b: 2 })
  const text = JSON.stringify(add)

  it("is tolerant about where a call stands", () => {
    const function_ = {
      id: "c1",
      type: "function",
      function: { name: "add", arguments: JSON.stringify(add.arguments) }
    }
    for (const completion of [
      text,
      `  ${text}\n`,
      `[${text}]`,
      `I will call ${text} now.`,
      `\`\`\`json\n${text}\n\`\`\``,
      `<tool_call>\n${text}\n</tool_call>`,
      `<tool_call>${text}`,
      JSON.stringify(function_),
      JSON.stringify({ tool_calls: [function_] }),
      JSON.stringify({ content: null, tool_calls: [function_] }),
      `<|python_tag|>${text}`,
      `<|python_tag|>{"name": "add", "parameters": {"a": 1, "b": 2}}`,
      '{"name": "add", "parameters": {"a": 1, "b": 2}}',
      `[TOOL_CALLS][${text}]`
    ]) {
      assert.deepStrictEqual(parseToolCalls(completion), { calls: [add] }, completion)
    }
    for (const completion of [
      `<tool_call>${text}</tool_call><tool_call>${text}</tool_call>`,
      `[${text}, ${text}]`,
      `<|python_tag|>${text}; ${text}`,
      `${text};${text}`
    ]) {
      assert.deepStrictEqual(parseToolCalls(completion), { calls: [add, add] }, completion)
    }
    const tricky = call("say", { text: "};{" })
    assert.deepStrictEqual(parseToolCalls(JSON.stringify(tricky)), { calls: [tricky] })
  })

  it("is strict about what it is", () => {
    for (const completion of [
      "",
      "add(1, 2)",
      "{}",
      "[]",
      "null",
      "42",
      '{"name":"add"}',
      '{"name":"","arguments":{}}',
      '{"name":1,"arguments":{}}',
      '{"name":["add"],"arguments":{}}',
      '{"name":"add","arguments":[1]}',
      '{"name":"add","arguments":"1"}',
      '{"name":"add","arguments":"{"}',
      '{"name":"add","arguments":null}',
      '{"name":"add","arguments":{},"reward":1}',
      '{"name":"add","arguments":{},"parameters":{}}',
      '{"name":"add","parameters":1}',
      '{"function":{"function":{"name":"add","arguments":{}}}}',
      '[{"name":"add","arguments":{}},1]',
      '<tool_call>{"name":"add","arguments":{}}</tool_call><tool_call>{</tool_call>',
      `${"[".repeat(200)}${"]".repeat(200)}`,
      " ".repeat(70_000)
    ]) {
      assert.property(parseToolCalls(completion), "fault", completion.slice(0, 100))
    }
  })

  it("never throws, and reads back what was written", () => {
    fc.assert(fc.property(fc.oneof(fc.string(), fc.json()), (text) => void parseToolCalls(text)))
    const args = fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 3 }))
    fc.assert(
      fc.property(fc.string({ minLength: 1 }), args, (name, given) => {
        const written = JSON.stringify({ name, arguments: given })
        assert.deepStrictEqual(parseToolCalls(written), { calls: [JSON.parse(written) as ToolCall] })
      })
    )
  })
})
