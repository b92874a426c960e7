/**
 * Questions that one of three offered tools answers.
 *
 * The policy reads the tools' JSON definitions in the system message and writes the call, `{"name": "get_weather",
 * "arguments": {"city": "Oslo", "unit": "celsius"}}`. The task is for language models with a chat template. Two kinds
 * of tasks are held out: new questions (wording and values) on trained tools, and tools that no training task mentions.
 */
import { isDeepStrictEqual } from "node:util"
import { OptionError } from "../src/OptionError.ts"
import { jsonSchema } from "../rewards/schema/JsonSchema.ts"
import { parseToolCalls, type ToolCall } from "../rewards/tools/ToolReplay.ts"
import * as Environment from "../src/rollout/Environment.ts"
import * as Reward from "../src/score/Reward.ts"
import * as Task from "../src/data/Task.ts"
import type { VerifierFunction } from "../src/score/Verifier.ts"
import * as Draw from "./internal/Draw.ts"
import { type Parameter, type ToolSpec, TRAINED, UNSEEN } from "./internal/toolkitTools.ts"

export interface ToolkitData {
  /** The right call. */
  readonly call: ToolCall
  /** JSON Schema of the right tool's calls, and of the calls that the offered tools allow. */
  readonly schema: Readonly<Record<string, unknown>>
  readonly allowed: Readonly<Record<string, unknown>>
  /** Whether the tool is one that no training task mentions. */
  readonly unseen: boolean
}

export interface ToolkitOptions {
  /** Selects questions, values and the tools that are offered together. Default 0. */
  readonly seed?: number
  /** Tools offered per question. Default 3. */
  readonly offered?: number
  /** Number of held-out tasks, half of them on tools that no training task mentions. Default 128. */
  readonly heldOut?: number
}

export interface Toolkit {
  /** Endless questions on the trained tools. */
  readonly tasks: Task.Source<ToolkitData>
  readonly heldOut: Task.Source<ToolkitData>
  /** One turn of at most 48 tokens. */
  readonly environment: Environment.Environment<ToolkitData>
  /**
   * Reward of a call. Text without a JSON object with a name and arguments gets 0. Such a call gets 0.1. The right
   * tool's name adds 0.2. Text that is nothing but a call that this tool's schema allows adds 0.2. The share of right
   * arguments adds up to 0.5. `schema` (a call that any offered tool allows) and `exact` are only measured.
   */
  readonly reward: Reward.Reward<ToolkitData>
}

/** Draws a value for training. The last quarter of a text's values is for held-out questions. */
const value = (draw: Draw.Draw, parameter: Parameter, held: boolean): string | number => {
  if (parameter.kind === "integer") return draw.between(parameter.low, parameter.high)
  const { kind, values } = parameter
  const cut = kind === "choice" ? 0 : Math.floor(values.length * 0.75)
  const last = kind === "choice" || held ? values.length - 1 : cut - 1
  return values[draw.between(held ? cut : 0, last)]!
}

const typeOf = (parameter: Parameter): Readonly<Record<string, unknown>> => {
  if (parameter.kind === "integer") return { type: "integer" }
  return parameter.kind === "text" ? { type: "string" } : { enum: parameter.values }
}

const properties = (tool: ToolSpec) =>
  Object.fromEntries(Object.entries(tool.parameters).map(([name, parameter]) => [name, typeOf(parameter)]))

const definition = (tool: ToolSpec): string =>
  JSON.stringify({ name: tool.name, description: tool.description, parameters: properties(tool) })

/** JSON Schema of one tool's calls. */
const callOf = (tool: ToolSpec) => ({
  type: "object",
  properties: {
    name: { const: tool.name },
    arguments: {
      type: "object",
      properties: properties(tool),
      required: Object.keys(tool.parameters),
      additionalProperties: false
    }
  },
  required: ["name", "arguments"],
  additionalProperties: false
})

/** Makes a question about `tool`, and the call that answers it. */
const ask = (
  draw: Draw.Draw,
  tool: ToolSpec,
  held: boolean
): { readonly question: string; readonly call: ToolCall } => {
  // Untrained tools have no wording of their own to hold out.
  const questions = held && TRAINED.includes(tool) ? tool.questions.slice(-1) : tool.questions.slice(0, 2)
  const args: Record<string, string | number> = {}
  for (const [name, parameter] of Object.entries(tool.parameters)) {
    // The two cities of a train question must differ.
    do args[name] = value(draw, parameter, held)
    while (Object.entries(args).some(([other, given]) => other !== name && given === args[name]))
  }
  const question = questions[draw.between(0, questions.length - 1)]!.replace(/\{(\w+)\}/g, (_, name: string) =>
    String(args[name])
  )
  return { question, call: { name: tool.name, arguments: args } }
}

const INSTRUCTIONS = "Answer with one call of these tools, as JSON and nothing else:"

/** Makes the offered tools, a worked example of each except the right one, and the question. */
const makeTask = (
  id: string,
  draw: Draw.Draw,
  tools: readonly [ToolSpec, ...Array<ToolSpec>],
  offered: number,
  held: boolean
): Task.Task<ToolkitData> => {
  const tool = draw.pick(tools)
  const others = Draw.shuffled(
    draw,
    tools.filter((other) => other !== tool)
  ).slice(0, offered - 1)
  const shown = Draw.shuffled(draw, [tool, ...others])
  const examples = others.flatMap((other): ReadonlyArray<Task.Message> => {
    const { call, question } = ask(draw, other, held)
    return [
      { role: "user", content: question },
      { role: "assistant", content: JSON.stringify(call) }
    ]
  })
  const { call, question } = ask(draw, tool, held)
  return {
    id,
    prompt: [
      { role: "system", content: `${INSTRUCTIONS}\n${shown.map(definition).join("\n")}` },
      ...examples,
      { role: "user", content: question }
    ],
    data: { call, schema: callOf(tool), allowed: { anyOf: shown.map(callOf) }, unseen: tools === UNSEEN }
  }
}

/** Returns the one call in a completion, or undefined. */
const callIn = (text: string): ToolCall | undefined => {
  const parsed = parseToolCalls(text)
  return "fault" in parsed || parsed.calls.length !== 1 ? undefined : parsed.calls[0]
}

/** Checks that the text is one JSON object with a name and arguments. */
export const isCall: VerifierFunction<ToolkitData> = ({ trajectory }) =>
  callIn(trajectory.text) === undefined ? { score: 0, reason: "no single tool call" } : 1

/** Checks that the call is to the right tool. */
export const rightTool: VerifierFunction<ToolkitData> = ({ task, trajectory }) =>
  callIn(trajectory.text)?.name === task.data.call.name ? 1 : { score: 0, reason: `expected ${task.data.call.name}` }

/** Scores the share of right arguments, less those that the call should not have. Another tool gets 0. */
export const rightArguments: VerifierFunction<ToolkitData> = ({ task, trajectory }) => {
  const call = callIn(trajectory.text)
  const { name, arguments: wanted } = task.data.call
  if (call?.name !== name) return { score: 0, reason: `expected ${name}` }
  const keys = new Set([...Object.keys(wanted), ...Object.keys(call.arguments)])
  const right = [...keys].filter((key) => Object.hasOwn(wanted, key) && call.arguments[key] === wanted[key]).length
  return right === keys.size ? 1 : { score: right / keys.size, reason: `${right} of ${keys.size} arguments are right` }
}

const parseAlone = (text: string): unknown => {
  try {
    return JSON.parse(text) as unknown
  } catch {
    return undefined
  }
}

/** Checks that the text is exactly the right call, ended by the policy itself. */
export const exactCall: VerifierFunction<ToolkitData> = ({ task, trajectory }) =>
  trajectory.stopReason === "stop" && isDeepStrictEqual(parseAlone(trajectory.text), task.data.call)
    ? 1
    : { score: 0, reason: "not the right call alone" }

// A call of another offered tool also fits the schemas, and its worked example can be copied. If that paid, training
// would end there. So only the right tool's schema pays.
const makeReward = (): Reward.Reward<ToolkitData> =>
  Reward.all({
    call: Reward.gate(isCall),
    format: Reward.weight(0.1, isCall),
    tool: Reward.weight(0.2, rightTool),
    fits: Reward.weight(
      0.2,
      jsonSchema<ToolkitData>((task) => task.data.schema, { strict: true })
    ),
    arguments: Reward.weight(0.5, rightArguments),
    schema: Reward.metric(jsonSchema<ToolkitData>((task) => task.data.allowed, { strict: true })),
    exact: Reward.metric(exactCall)
  })

/**
 * Makes the task, its environment and its reward.
 *
 * @example
 * ```ts
 * const { tasks, heldOut, environment, reward } = toolkit({ seed: 1 })
 * yield* Grpo.train({ tasks, heldOut, environment, reward, tokenizer, steps: 200, directory, update: { learningRate: 1e-4 } })
 * ```
 */
export const toolkit = (options: ToolkitOptions = {}): Toolkit => {
  const { seed = 0, offered = 3, heldOut = 128 } = options
  if (!Number.isInteger(offered) || offered < 1 || offered > UNSEEN.length) {
    throw new OptionError({
      module: "toolkit",
      option: "offered",
      value: offered,
      expected: `a whole number from 1 to ${UNSEEN.length}`,
      remedy: "Leave it out for 3"
    })
  }
  if (!Number.isInteger(heldOut) || heldOut < 0) {
    throw new OptionError({
      module: "toolkit",
      option: "heldOut",
      value: heldOut,
      expected: "a whole number from 0",
      remedy: "Give the number of held-out tasks"
    })
  }
  const name = `toolkit(${offered},${heldOut},${seed})`
  return {
    tasks: Task.generate(name, (index) =>
      makeTask(`trained ${index}`, Draw.of(seed, `toolkit/${index}`), TRAINED, offered, false)
    ),
    heldOut: Task.fromArray(
      Array.from({ length: heldOut }, (_, index) => {
        const tools = index % 2 === 0 ? TRAINED : UNSEEN
        return makeTask(`held out ${index}`, Draw.of(seed, `toolkit/heldOut/${index}`), tools, offered, true)
      }),
      `${name} (held out)`
    ),
    environment: Environment.singleTurn({ name: "toolkit", maxTokens: 48 }),
    reward: makeReward()
  }
}
