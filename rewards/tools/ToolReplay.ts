/**
 * Judges tool calls by what they do: the calls of the completion and the expected ones are replayed against the same
 * simulated or recorded tools, and results and final state are compared. `12+7` and `7+12` are both right.
 */
import type { Task } from "../../src/data/Task.ts"
import * as Verifier from "../../src/score/Verifier.ts"
import { answerPart } from "../internal/completion.ts"
import { parseJson, readJson } from "../internal/extractJson.ts"
import { equals } from "../internal/compare.ts"
import { policyText } from "../../src/rollout/Trajectory.ts"

export interface ToolCall {
  readonly name: string
  readonly arguments: Readonly<Record<string, unknown>>
}

/**
 * A tool without effects on the world: it returns its result, and may modify `state`, which is the replay's own copy.
 * A throw is a failed call, as it would be for bad arguments.
 */
export type Tool<State = any> = (args: Readonly<Record<string, unknown>>, state: State) => unknown

/** A call as it was once answered; see {@link recordedTools}. */
export interface Recording extends ToolCall {
  readonly result: unknown
}

export type ParsedCalls = { readonly calls: ReadonlyArray<ToolCall> } | { readonly fault: string }

export interface ToolReplayOptions<Data, State = undefined> {
  /** By name. Only own properties and entries count: a model may well call `constructor`. */
  readonly tools:
    | Readonly<Record<string, Tool<State>>>
    | ReadonlyMap<string, Tool<State>>
    | ((task: Task<Data>) => Readonly<Record<string, Tool<State>>> | ReadonlyMap<string, Tool<State>>)
  /** The right calls. Default: `task.data.calls`. */
  readonly expected?: (task: Task<Data>) => ReadonlyArray<ToolCall>
  /** The state before the first call: cloneable data. Default none. */
  readonly state?: (task: Task<Data>) => State
  /** Finds the calls in a completion. Default {@link parseToolCalls}. */
  readonly parse?: (text: string) => ParsedCalls
  /**
   * `all`: 1 when there are as many calls as expected, every result is equal and so is the final state, else 0. `share`: equal
   * results in their order (and the state, when there is one) over the longer of both lists. Default `all`.
   */
  readonly score?: "all" | "share"
  /** Compare names and arguments too, so that another way to the same result does not count. Default false. */
  readonly exact?: boolean
  /** More calls than this score 0. Default 32. */
  readonly maxCalls?: number
}

/**
 * @example
 * ```ts
 * const replay = toolReplay<{ calls: Array<ToolCall> }>({ tools: { add: ({ a, b }) => Number(a) + Number(b) } })
 *
 * // with state: the order of deposits does not matter, the balance does
 * const bank = toolReplay<{ calls: Array<ToolCall> }, { balance: number }>({
 *   state: () => ({ balance: 0 }),
 *   tools: { deposit: ({ amount }, state) => void (state.balance += Number(amount)) },
 *   expected: (task) => task.data.calls
 * })
 * ```
 */
export const toolReplay = <Data = any, State = undefined>(
  options: ToolReplayOptions<Data, State>
): Verifier.VerifierFunction<Data> => {
  const parse = options.parse ?? parseToolCalls
  const maxCalls = options.maxCalls ?? 32
  const all = (options.score ?? "all") === "all"
  const expectedOf = options.expected ?? callsOf
  return ({ task, trajectory }) => {
    const expected = expectedOf(task)
    const tools = typeof options.tools === "function" ? options.tools(task) : options.tools
    const initial = options.state?.(task)
    const right = replay(tools, expected, structuredClone(initial))
    const broken = right.results.findIndex((result) => "fault" in result)
    // the task is wrong, not the policy
    if (broken >= 0) {
      const { fault } = right.results[broken] as { readonly fault: string }
      return Verifier.unscorable(`expected call ${broken + 1} of task ${task.id} fails: ${fault}`)
    }
    const parsed = parse(policyText(trajectory))
    if ("fault" in parsed) return { score: 0, reason: `no tool call: ${parsed.fault}` }
    const { calls } = parsed
    if (calls.length > maxCalls) return { score: 0, reason: `${calls.length} calls, at most ${maxCalls} are replayed` }
    const own = replay(tools, calls, structuredClone(initial))

    const wrong = new Array<string>()
    let equal = 0
    const length = Math.max(expected.length, calls.length)
    for (let index = 0; index < length; index++) {
      const problem = compare(calls[index], own.results[index], expected[index], right.results[index], options.exact)
      if (problem === undefined) equal++
      else wrong.push(`call ${index + 1}: ${problem}`)
    }
    const stateful = options.state !== undefined
    const sameState = !stateful || equals(own.state, right.state)
    if (!sameState) wrong.push("the final state differs")
    const items = length + Number(stateful)
    return {
      score: all ? Number(wrong.length === 0) : items === 0 ? 1 : (equal + Number(stateful && sameState)) / items,
      reason: (wrong.length === 0 ? "as expected" : wrong.join("; ")).slice(0, 400),
      metrics: { calls: calls.length, failed: own.results.filter((result) => "fault" in result).length }
    }
  }
}

type Replayed = { readonly value: unknown } | { readonly fault: string }

const compare = (
  call: ToolCall | undefined,
  result: Replayed | undefined,
  expectedCall: ToolCall | undefined,
  expected: Replayed | undefined,
  exact: boolean | undefined
): string | undefined => {
  if (call === undefined || result === undefined) return "missing"
  if (expectedCall === undefined || expected === undefined) return "not expected"
  if ("fault" in result) return result.fault
  if (exact && !(call.name === expectedCall.name && equals(call.arguments, expectedCall.arguments)))
    return "another call"
  return "value" in expected && equals(result.value, expected.value) ? undefined : "another result"
}

const replay = <State>(
  tools: Readonly<Record<string, Tool<State>>> | ReadonlyMap<string, Tool<State>>,
  calls: ReadonlyArray<ToolCall>,
  state: State | undefined
): { readonly results: ReadonlyArray<Replayed>; readonly state: State | undefined } => ({
  results: calls.map((call): Replayed => {
    const tool = find(tools, call.name)
    if (tool === undefined) return { fault: `unknown tool ${JSON.stringify(call.name).slice(0, 80)}` }
    try {
      // a copy of its own: neither what a tool keeps nor what it returns may change a call or the state later
      return { value: structuredClone(tool(structuredClone(call.arguments), state as State)) }
    } catch (fault) {
      return { fault: `${call.name} failed: ${fault instanceof Error ? fault.message : "it threw"}`.slice(0, 200) }
    }
  }),
  state
})

const find = <State>(
  tools: Readonly<Record<string, Tool<State>>> | ReadonlyMap<string, Tool<State>>,
  name: string
): Tool<State> | undefined => {
  if (tools instanceof Map) return tools.get(name)
  return Object.hasOwn(tools, name) ? (tools as Readonly<Record<string, Tool<State>>>)[name] : undefined
}

const callsOf = (task: Task<any>): ReadonlyArray<ToolCall> => {
  const calls: unknown = task.data?.calls
  if (!Array.isArray(calls))
    throw new TypeError(`task ${task.id} has no data.calls; give toolReplay an \`expected\` function`)
  return calls as ReadonlyArray<ToolCall>
}

/** Longest text in which calls are looked for. Characters. */
const maxCharacters = 65_536

/**
 * Reads calls from a completion: one JSON object or an array of them, in a fence, in prose, in `<tool_call>` tags (Hermes,
 * Qwen, SmolLM), after `<|python_tag|>` (Llama, several divided by `;`) or `[TOOL_CALLS]` (Mistral); `{ name, arguments }`
 * or Llama's `{ name, parameters }`, with the arguments as an object or as JSON text, also under `function` and within
 * `tool_calls`, as OpenAI-compatible servers write them. Tolerant about where a call stands, strict about what it is: a name, an object
 * of arguments, nothing unknown. What is thought, in `<think>` tags before it, is not a call.
 */
export const parseToolCalls = (text: string): ParsedCalls => {
  if (text.length > maxCharacters) return { fault: `longer than ${maxCharacters} characters` }
  const { end, start } = answerPart(text)
  const said = text.slice(start, end)
  const tagged = [...said.matchAll(/<tool_call>([\s\S]*?)(?:<\/tool_call>|$)/g)].map((match) => match[1]!.trim())
  const whole = parseJson(text, maxCharacters)
  const documents =
    "value" in whole
      ? [whole]
      : tagged.length > 0
        ? tagged.map((document) => parseJson(document, maxCharacters))
        : divided(said)
  const calls: Array<ToolCall> = []
  for (const parsed of documents) {
    if ("fault" in parsed) return parsed
    const found =
      isRecord(parsed.value) && Object.hasOwn(parsed.value, "tool_calls") ? parsed.value["tool_calls"] : parsed.value
    for (const item of Array.isArray(found) ? (found as Array<unknown>) : [found]) {
      const call = asCall(item)
      if ("fault" in call) return call
      calls.push(call)
    }
  }
  return calls.length === 0 ? { fault: "an empty list" } : { calls }
}

/** Calls without tags of their own: all that follows a marker, in one document or in several divided by `;`. */
const divided = (said: string): ReadonlyArray<ReturnType<typeof readJson>> => {
  const marked = /(?:<\|python_tag\|>|\[TOOL_CALLS\])([\s\S]*)$/.exec(said)?.[1] ?? said
  const parts = marked.split(/(?<=\})\s*;\s*(?=\{)/)
  if (parts.length > 1) {
    const documents = parts.map((part) => parseJson(part.trim(), maxCharacters))
    if (documents.every((document) => "value" in document)) return documents
  }
  return [readJson(marked, maxCharacters)]
}

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const asCall = (item: unknown): ToolCall | { readonly fault: string } => {
  if (!isRecord(item)) return { fault: "a call is an object" }
  if (Object.hasOwn(item, "function")) {
    const stranger = Object.keys(item).find((key) => !["function", "id", "type", "index"].includes(key))
    if (stranger !== undefined) return { fault: `unknown field ${stranger.slice(0, 40)}` }
    const inner = item["function"]
    if (!isRecord(inner) || Object.hasOwn(inner, "function")) return { fault: "function is an object with a name" }
    return asCall(inner)
  }
  const argumentsKey = Object.hasOwn(item, "arguments") ? "arguments" : "parameters"
  const stranger = Object.keys(item).find((key) => !["name", argumentsKey, "id", "type", "index"].includes(key))
  if (stranger !== undefined) return { fault: `unknown field ${stranger.slice(0, 40)}` }
  const name = Object.hasOwn(item, "name") ? item["name"] : undefined
  if (typeof name !== "string" || name === "") return { fault: "a call has a name" }
  let given = Object.hasOwn(item, argumentsKey) ? item[argumentsKey] : undefined
  if (typeof given === "string") {
    const parsed = parseJson(given, maxCharacters)
    if ("fault" in parsed) return { fault: `arguments: ${parsed.fault}` }
    given = parsed.value
  }
  return isRecord(given) ? { name, arguments: given } : { fault: "arguments are an object" }
}

/**
 * Tools that answer as they did when they were recorded: a call with the same name and arguments gets the result of the
 * first such recording, any other call fails.
 *
 * @example
 * ```ts
 * toolReplay<{ recordings: Array<Recording> }>({
 *   tools: (task) => recordedTools(task.data.recordings),
 *   expected: (task) => task.data.recordings
 * })
 * ```
 */
export const recordedTools = (recordings: ReadonlyArray<Recording>): ReadonlyMap<string, Tool<any>> =>
  new Map(
    recordings.map(({ name }) => [
      name,
      (args) => {
        const found = recordings.find((recording) => recording.name === name && equals(recording.arguments, args))
        if (found === undefined) throw new Error("nothing was recorded for these arguments")
        return found.result
      }
    ])
  )
