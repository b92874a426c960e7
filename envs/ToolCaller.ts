/**
 * Questions that are answered with a JSON tool call.
 *
 * The answer to `12+7=?` is `{"name":"add","arguments":{"a":12,"b":7}}`. The answer to `f(x)=3x+14` is that function in
 * JavaScript, `{"name":"def","arguments":{"code":"x=>3*x+14"}}`. A schema gate, the replay of the call and unit tests
 * of the code judge it. Tasks are generated, deterministic by seed, and small enough for a character model of a million
 * parameters. A question has at most 10 tokens, an answer 48 with its end.
 */
import { OptionError } from "../src/OptionError.ts"
import * as JsonSchema from "../rewards/schema/JsonSchema.ts"
import * as ToolReplay from "../rewards/tools/ToolReplay.ts"
import * as UnitTests from "../rewards/code/UnitTests.ts"
import * as Environment from "../src/rollout/Environment.ts"
import * as Reward from "../src/score/Reward.ts"
import type { PromptCompletion } from "../src/data/Demonstration.ts"
import * as Task from "../src/data/Task.ts"
import * as Tokenizer from "../src/text/Tokenizer.ts"
import * as Verifier from "../src/score/Verifier.ts"
import type { VerifierFunction } from "../src/score/Verifier.ts"
import type { VerifierPool } from "../src/score/VerifierPool.ts"
import * as Draw from "./internal/Draw.ts"
import * as Questions from "./internal/Questions.ts"

export interface ToolCallerData {
  readonly tool: "add" | "sub" | "mul" | "def"
  /** The call as the demonstrations write it. */
  readonly answer: string
  /** The same call as data; the replay compares with it. */
  readonly calls: ReadonlyArray<ToolReplay.ToolCall>
  /** Unit tests of the requested function; empty for arithmetic. */
  readonly cases: ReadonlyArray<UnitTests.UnitTestCase>
}

export interface ToolCallerOptions {
  /** Selects the questions, those held out, and the demonstrations. Default 0. */
  readonly seed?: number
  /** Largest operand, at least 20; the smallest is 10. Default 99. */
  readonly max?: number
  /** Number of held-out questions, equally many for each tool. Default 128. */
  readonly heldOut?: number
}

export interface DemonstrationOptions {
  readonly count: number
  /** Share of the demonstrations that is wrong. Default 0.7. */
  readonly errorRate?: number
}

export interface ToolCaller {
  /** Endless questions, none of them held out. */
  readonly tasks: Task.Source<ToolCallerData>
  /** Questions that occur neither in `tasks` nor in the demonstrations. */
  readonly heldOut: Task.Source<ToolCallerData>
  /** The characters of questions, calls and code, and the end of text. */
  readonly tokenizer: Tokenizer.Tokenizer
  /** One turn of at most 48 tokens. */
  readonly environment: Environment.Environment<ToolCallerData>
  /** {@link makeReward}: 1 for a call that passes the schema, the replay and the unit tests, else 0. */
  readonly reward: Reward.Reward<ToolCallerData>
  /**
   * The same reward, with the schema and the replay in the verifier pool, so that no text can stall or crash the
   * trainer.
   */
  readonly pooledReward: Reward.Reward<ToolCallerData, VerifierPool>
  /**
   * Makes imperfect examples to warm up on. Most mistakes are habits: `19-15=?` gets its operands in the wrong order,
   * `19*15=?` adds, `f(x)=3x+14` is copied as it is, which is not JavaScript. The rest are slips in operands, tool and
   * format.
   */
  readonly demonstrations: (options: DemonstrationOptions) => ReadonlyArray<PromptCompletion>
}

const tokenizer = Tokenizer.characters(`0123456789+-*=?()x>{}":,.abcdefglmnorstu`)
const MAX_TOKENS = 48

const Integer = { type: "integer" } as const
const call = (tools: ReadonlyArray<string>, parameters: Readonly<Record<string, object>>) => ({
  type: "object",
  properties: {
    name: { enum: tools },
    arguments: {
      type: "object",
      properties: parameters,
      required: Object.keys(parameters),
      additionalProperties: false
    }
  },
  required: ["name", "arguments"],
  additionalProperties: false
})

/** JSON Schema (draft 2020-12) of all valid calls. */
export const Call = {
  anyOf: [
    call(["add", "sub", "mul"], { a: Integer, b: Integer }),
    call(["def"], { code: { type: "string", maxLength: 40 } })
  ]
} as const

/**
 * Exact match: 1 for the text of the demonstrated answer. It is stricter than the reward, which accepts any right call.
 */
export const exactMatch: VerifierFunction<ToolCallerData> = ({ task, trajectory }) =>
  trajectory.text === task.data.answer && trajectory.stopReason === "stop"
    ? 1
    : { score: 0, reason: `expected ${task.data.answer}` }

/** The tools, simulated. `def` accepts any source: the unit tests decide whether it is the right function. */
const arithmetic =
  (tool: "add" | "sub" | "mul"): ToolReplay.Tool =>
  ({ a, b }) =>
    Questions.apply(tool, Number(a), Number(b))
const tools: Readonly<Record<string, ToolReplay.Tool>> = {
  add: arithmetic("add"),
  sub: arithmetic("sub"),
  mul: arithmetic("mul"),
  def: () => "defined"
}

/** Returns the code of a definition, or undefined if the text is not a call of `def`. */
const codeOf = (text: string): string | undefined => {
  const parsed = ToolReplay.parseToolCalls(text)
  if ("fault" in parsed) return undefined
  const [call] = parsed.calls
  const code = call?.name === "def" ? call.arguments["code"] : undefined
  return typeof code === "string" ? code : undefined
}

/** Makes unit tests of the code in a definition. Questions that request no function pass. */
export const tests = (): VerifierFunction<ToolCallerData> => {
  const run = UnitTests.unitTests<ToolCallerData>({
    entry: "f",
    cases: (task) => task.data.cases,
    extract: (text) => `const f = ${codeOf(text) ?? "undefined"}`
  })
  return (input) => {
    if (input.task.data.tool !== "def") return { score: 1, reason: "no code was asked for" }
    if (codeOf(input.trajectory.text) === undefined) return { score: 0, reason: "no call of def" }
    return run(input)
  }
}

/** Checks that the call satisfies {@link Call}. */
export const schema = (): VerifierFunction<ToolCallerData> =>
  JsonSchema.jsonSchema<ToolCallerData>(Call, { strict: true })

/** Replays the call, and checks that it gives the result of the right call. */
export const replay = (): VerifierFunction<ToolCallerData> => ToolReplay.toolReplay<ToolCallerData>({ tools })

/**
 * Makes the reward: three gates and one metric.
 *
 * The gates are {@link schema}, {@link replay}, and {@link tests} of the code in the call (1 if no function is
 * requested). Their product is 1 for any right call, whatever its form, and 0 otherwise. `exact` is {@link exactMatch},
 * only measured.
 */
export const makeReward = (): Reward.Reward<ToolCallerData> =>
  Reward.all({
    schema: Reward.gate(schema()),
    tests: Reward.gate(tests()),
    replay: Reward.gate(replay()),
    exact: Reward.metric(exactMatch)
  })

const inPool = (name: "schema" | "replay") =>
  Verifier.worker<ToolCallerData>({ module: import.meta.url, export: name, options: {} })

/** Makes {@link makeReward} with schema and replay in the pool. The unit tests have sandbox processes of their own. */
export const makePooledReward = (): Reward.Reward<ToolCallerData, VerifierPool> =>
  Reward.all({
    schema: Reward.gate(inPool("schema")),
    tests: Reward.gate(tests()),
    replay: Reward.gate(inPool("replay")),
    exact: Reward.metric(exactMatch)
  })

/** Makes the task of a question. */
const toTask = (question: Questions.Question): Task.Task<ToolCallerData> => {
  const prompt = Questions.prompt(question)
  return {
    id: prompt,
    prompt,
    data: {
      tool: question.tool,
      answer: Questions.gold(question),
      calls: [JSON.parse(Questions.gold(question)) as ToolReplay.ToolCall],
      cases: question.tool === "def" ? Questions.cases(question) : []
    }
  }
}

/**
 * Makes the task, its vocabulary, its rewards and its demonstrations.
 *
 * @example
 * ```ts
 * const { tasks, heldOut, tokenizer, environment, reward, demonstrations } = toolCaller({ seed: 1 })
 * yield* Sft.train({ demonstrations: demonstrations({ count: 4000 }), tokenizer, steps: 200, update: { learningRate: 2e-3 } })
 * yield* Grpo.train({ tasks, heldOut, environment, reward, tokenizer, steps: 100, directory, update: { learningRate: 5e-4 } })
 * ```
 */
export const toolCaller = (options: ToolCallerOptions = {}): ToolCaller => {
  const { seed = 0, max = 99, heldOut: count = 128 } = options
  if (!Number.isInteger(max) || max < 20 || max > 99) {
    throw new OptionError({
      module: "toolCaller",
      option: "max",
      value: max,
      expected: "a whole number from 20 to 99",
      remedy: "Leave it out for 99"
    })
  }
  if (!Number.isInteger(count) || count < 0 || count > 200) {
    throw new OptionError({
      module: "toolCaller",
      option: "heldOut",
      value: count,
      expected: "a whole number from 0 to 200",
      remedy: "Give the number of held-out tasks"
    })
  }
  const name = `toolCaller(${max},${count},${seed})`
  const toolOf = (index: number): Questions.Question["tool"] => Questions.TOOLS[index % Questions.TOOLS.length]!

  const held = new Map<string, Questions.Question>()
  const heldDraw = Draw.of(seed, "toolCaller/heldOut")
  while (held.size < count) {
    const question = Questions.draw(heldDraw, toolOf(held.size), max)
    held.set(Questions.prompt(question), question)
  }
  /** Draws the first question of this stream that is not held out. */
  const draw = (from: Draw.Draw, index: number): Questions.Question => {
    for (;;) {
      const question = Questions.draw(from, toolOf(index), max)
      if (!held.has(Questions.prompt(question))) return question
    }
  }
  return {
    tasks: Task.generate(name, (index) => toTask(draw(Draw.of(seed, `toolCaller/${index}`), index))),
    heldOut: Task.fromArray([...held.values()].map(toTask), `${name} (held out)`),
    tokenizer,
    environment: Environment.singleTurn({ name: "toolCaller", maxTokens: MAX_TOKENS }),
    reward: makeReward(),
    pooledReward: makePooledReward(),
    demonstrations: ({ count, errorRate = 0.7 }) =>
      Array.from({ length: count }, (_, index) => {
        const from = Draw.of(seed, `toolCaller/demonstration/${index}`)
        const question = draw(from, index)
        return {
          prompt: Questions.prompt(question),
          completion: from.chance(errorRate) ? Questions.mistake(question, from) : Questions.gold(question)
        }
      })
  }
}
