/** Every verifier of this library, held to the test kit. Where an expectation differs from the kit's, the reason stands beside it. */
import { writtenInScript } from "../../../rewards/text/Language.ts"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as LanguageModel from "effect/ai/LanguageModel"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import {
  jsonSchema,
  recordedTools,
  toolReplay,
  unitTests,
  type Recording,
  type UnitTestCase
} from "../../../rewards/index.ts"
import { answer } from "../../../rewards/math/Answer.ts"
import * as boundary from "../../../src/sandbox/internal/boundary.ts"
import { judge } from "../../../rewards/text/Judge.ts"
import {
  assertSound,
  check,
  checkVerifier,
  mutations,
  type CheckOptions,
  type Example
} from "../../../rewards/testing/index.ts"
import {
  citations,
  formatTags,
  matchesPattern,
  ngramRepetition,
  textLength
} from "../../../rewards/text/TextVerifiers.ts"
import type { VerifierFunction } from "../../../src/score/Verifier.ts"

const holds = async <Data>(
  verifier: VerifierFunction<Data>,
  examples: Example<Data> | ReadonlyArray<Example<Data>>,
  options: CheckOptions<Data> = {}
): Promise<void> => assertSound(await checkVerifier(verifier, examples, { cost: false, ...options }))

const fence = (code: string, language = "js"): string => `\`\`\`${language}\n${code}\n\`\`\``

describe("toolReplay", () => {
  const tools = {
    add: ({ a, b }: Readonly<Record<string, unknown>>) => Number(a) + Number(b),
    weather: ({ city }: Readonly<Record<string, unknown>>) => `sunny in ${String(city)}`
  }
  const call = (name: string, args: unknown) => ({ name, arguments: args as Readonly<Record<string, unknown>> })
  const sum = (a: number, b: number) => `{"name": "add", "arguments": {"a": ${a}, "b": ${b}}}`
  const weather = (city: string) => `{"name": "weather", "arguments": {"city": "${city}"}}`
  const tagged = (text: string) => `<tool_call>\n${text}\n</tool_call>`
  const sumTask = { id: "sum", prompt: "", data: { calls: [call("add", { a: 12, b: 7 })] } }
  const examples = [
    { task: sumTask, gold: [sum(12, 7)], wrong: [sum(12, 8), '{"name": "sub", "arguments": {"a": 12, "b": 7}}'] },
    { task: sumTask, gold: [tagged(sum(12, 7))], wrong: [tagged(sum(12, 8)), tagged("19"), "19"] },
    {
      task: { id: "weather", prompt: "", data: { calls: [call("weather", { city: "Lyon" })] } },
      gold: [fence(weather("Lyon"), "json")],
      wrong: [fence(weather("Lion"), "json"), fence(weather(""), "json")]
    }
  ]
  // the first call is the one that is made, comments there are none in JSON
  const expect = { "commented-gold": "either" } as const
  it("holds", () => holds(toolReplay<(typeof examples)[number]["task"]["data"]>({ tools }), examples, { expect }))
  it("holds with recorded tools, exactly", () => {
    const recordings: ReadonlyArray<Recording> = [{ ...call("add", { a: 12, b: 7 }), result: 19 }]
    return holds(
      toolReplay<unknown>({ tools: () => recordedTools(recordings), expected: () => recordings, exact: true }),
      examples.slice(0, 2),
      { expect }
    )
  })
})

describe("jsonSchema", () => {
  const Call = Schema.Struct({
    name: Schema.Literals(["add", "multiply"]),
    arguments: Schema.Struct({ a: Schema.Int, b: Schema.Int })
  })
  const example = {
    task: { id: "call", prompt: "", data: undefined },
    gold: ['{"name": "add", "arguments": {"a": 12, "b": 7}}', '{"name":"multiply","arguments":{"b":1,"a":-2}}'],
    wrong: [
      '{"name": "power", "arguments": {"a": 12, "b": 7}}',
      '{"name": "add", "arguments": {"a": "12", "b": 7}}',
      '{"name": "add"}'
    ]
  }
  // a schema takes any number; the first document counts, and comments there are none in JSON
  const anyNumber = { "off-by-one": "either", negated: "either", "commented-gold": "either" } as const
  it("holds", () => holds(jsonSchema(Call), example, { expect: anyNumber }))
  // the text is the document and nothing else
  it("holds strictly", () =>
    holds(jsonSchema(Call, { strict: true }), example, {
      expect: { ...anyNumber, prose: "reject", repeated: "reject" }
    }))
})

describe("unitTests", () => {
  const cases: ReadonlyArray<UnitTestCase> = [
    { args: [1, 2], expect: 13 },
    { args: [-4, 0], expect: 6 }
  ]
  const task = { id: "sum", prompt: "", data: { entry: "sum", cases } }
  const verifier = unitTests<typeof task.data>({
    entry: ({ data }) => data.entry,
    cases: ({ data }) => data.cases,
    children: 2
  })
  const example = {
    task,
    gold: [
      fence("function sum(a, b) {\n  return a + b + 10\n}"),
      fence("const sum = (a: number, b: number): number => a + b + 10", "ts"),
      "const sum = (a, b) => { return a + b + 10 }"
    ],
    wrong: [fence("function sum(a, b) {\n  return a + b + 11\n}"), fence("function sum(a, b) {\n  throw 13\n}")]
  }
  it("holds", () => holds(verifier, example))
})

// where bubblewrap does not hold, Python is refused: tests/rewards/SandboxPython.test.ts says so
const sandboxed = (await boundary.probe()).isolation === "bubblewrap"
describe.runIf(sandboxed)("unitTests of Python", () => {
  const python = (code: string) => fence(code, "python")
  const shared = { language: "python", children: 2, timeout: 5000, total: 20_000 } as const
  it("calls", () =>
    holds(
      unitTests<{ readonly cases: ReadonlyArray<UnitTestCase> }>({
        ...shared,
        entry: "total",
        cases: ({ data }) => data.cases
      }),
      {
        task: { id: "total", prompt: "", data: { cases: [{ args: [[1, 2]], expect: 13 }] } },
        gold: [python("def total(values):\n    return sum(values) + 10")],
        wrong: [
          python("def total(values):\n    return sum(values) + 11"),
          python("def total(values):\n    raise SystemExit(0)")
        ]
      }
    ))
  it("programs", () =>
    holds(unitTests<unknown>({ ...shared, programs: [{ stdin: "4\n", stdout: "14\n" }] }), {
      task: { id: "add ten", prompt: "", data: {} },
      gold: [python("print(int(input()) + 10)")],
      wrong: [python("print(int(input()) + 11)"), python("print(open('/dev/stdin').read())")]
    }))
})

describe("answer", () => {
  const task = (answer: string) => ({ id: answer, prompt: "", data: { answer } })
  const forms = (answer: string, right: string, ...wrong: ReadonlyArray<string>) =>
    [
      (text: string) => `\\boxed{${text}}`,
      (text: string) => `#### ${text}`,
      (text: string) => `The answer is ${text}.`
    ].map((form) => ({ task: task(answer), gold: [form(right)], wrong: wrong.map(form) }))

  it("mathematics", () =>
    holds(answer(), [
      ...forms("3/4", "\\frac{3}{4}", "\\frac{4}{3}", "\\frac{3}{5}", "3"),
      ...forms("2\\sqrt{3}", "\\sqrt{12}", "\\sqrt{13}", "2")
    ]))
  it("numbers", () => holds(answer({ compare: "number" }), forms("1234", "1,234", "1,243", "12,34", "123")))
  it("GSM8K", () =>
    holds(answer({ compare: "number" }), {
      task: task("She has 48 / 2 = 24 clips.\n#### 72"),
      gold: ["First 48 / 2 = <<48/2=24>>24, then 48 + 24 = <<48+24=72>>72.\n#### 72"],
      wrong: ["First 48 / 2 = <<48/2=24>>24, then 48 - 24 = <<48-24=27>>27.\n#### 27"]
    }))
  it("texts, as they stand", () =>
    holds(answer({ compare: "exact", extract: "whole" }), {
      task: task("Marie Curie"),
      gold: ["Marie Curie"],
      wrong: ["Pierre Curie", "Marie"]
    }))
  it("texts, normalised", () =>
    holds(answer({ compare: "normalised", extract: "whole" }), {
      task: task("The Eiffel Tower"),
      gold: ["the eiffel tower", "Eiffel Tower."],
      wrong: ["The Eiffel Bridge", "Tower"]
    }))
  it("texts, by F1", () =>
    holds(answer({ compare: "f1", extract: "whole" }), {
      task: task("Treaty of Westphalia"),
      gold: ["Treaty of Westphalia"],
      wrong: ["Treaty of Versailles", "Westphalia"]
    }))
  it("choices", () =>
    holds(answer({ compare: "choice", choices: "ABCD" }), [
      { task: task("B"), gold: ["The answer is (B)."], wrong: ["The answer is (C).", "The answer is (A)."] },
      { task: task("B"), gold: ["B"], wrong: ["C", "D"] }
    ]))
})

describe("text verifiers", () => {
  /** They judge a form: only what is named is right or wrong, but every text has a verdict. */
  const shape = (expect: CheckOptions["expect"]): CheckOptions => ({
    expect: {
      ...Object.fromEntries(mutations.map(({ name }) => [name, "either"])),
      gold: "accept",
      wrong: "reject",
      ...expect
    }
  })
  const example = (gold: ReadonlyArray<string>, wrong: ReadonlyArray<string>, data: unknown = undefined) => ({
    task: { id: "text", prompt: "", data },
    gold,
    wrong
  })
  const nothing = { empty: "reject", whitespace: "reject" } as const

  it("matchesPattern", async () => {
    const dated = example(["On 2024-02-29 it rained."], ["On 29 February it rained."])
    await holds(
      matchesPattern("\\b\\d{4}-\\d{2}-\\d{2}\\b"),
      dated,
      shape({ ...nothing, surrounded: "accept", nested: "reject" })
    )
    await holds(
      matchesPattern("(a+)+", { whole: true }),
      example(["aaa"], ["aab"]),
      shape({ ...nothing, nested: "reject" })
    )
  })
  it("textLength", async () => {
    const four = example(["one two three four"], ["one two", "one two three four five six"])
    await holds(textLength({ min: 3, max: 5 }, { unit: "words" }), four, shape({ ...nothing, surrounded: "accept" }))
  })
  it("writtenInScript", () =>
    holds(
      writtenInScript(["Cyrillic"], { min: 0.9 }),
      example(["\u0414\u043e\u0431\u0440\u044b\u0439 \u0434\u0435\u043d\u044c"], ["Good day"]),
      shape({ ...nothing, surrounded: "accept", injection: "reject" })
    ))
  it("formatTags", () =>
    holds(
      formatTags(["think", "answer"]),
      example(
        ["<think>12 + 7</think>\n<answer>19</answer>"],
        ["<think>12 + 7</think>\n19", "<answer>19</answer><think>12 + 7</think>", "<think><answer>19</answer></think>"]
      ),
      shape({ ...nothing, surrounded: "accept", truncated: "reject", "format-only": "reject", nested: "reject" })
    ))
  it("ngramRepetition", () =>
    holds(
      ngramRepetition({ n: 2, allowed: 0.1 }),
      example(["the quick brown fox jumps over a lazy dog"], ["the end the end the end the end"]),
      shape({ surrounded: "accept" })
    ))
  it("citations", () =>
    holds(
      citations(3, { required: 2 }),
      example(["It is so [1], and so [3]."], ["It is so [1].", "It is so [1], and so [4]."]),
      shape({ ...nothing, surrounded: "accept", "off-by-one": "either" })
    ))
})

describe("judge", () => {
  /** Grades what stands between the boundaries it was told, and trusts nothing else; it can be misled only by a broken frame. */
  const model = Layer.effect(
    LanguageModel.LanguageModel,
    LanguageModel.make({
      generateText: ({ prompt }) =>
        Effect.sync(() => {
          const textOf = (role: string) =>
            prompt.content
              .flatMap((message) => (message.role === role ? [message.content].flat() : []))
              .map((part: unknown) => (typeof part === "string" ? part : (part as { readonly text: string }).text))
              .join("")
          const [system, user] = [textOf("system"), textOf("user")]
          const canary = /"canary" is ([0-9a-f]{32})/.exec(system)![1]!
          const [, boundary, mark] = /"END \.\.\. (\S+)", and each of its lines begins with "(\S+)\| "/.exec(system)!
          const begin = `BEGIN ANSWER ${boundary!}\n`
          const end = `\nEND ANSWER ${boundary!}`
          assert.lengthOf(user.split(begin), 2)
          assert.lengthOf(user.split(end), 2)
          const lines = user.slice(user.indexOf(begin) + begin.length, user.indexOf(end)).split("\n")
          for (const line of lines) assert.isTrue(line.startsWith(`${mark!}| `), line)
          const answer = lines.map((line) => line.slice(mark!.length + 2)).join("\n")
          const right = /^\s*(The sum is )?19\.?\s*$/.test(answer)
          return [
            {
              type: "text" as const,
              text: JSON.stringify({ canary, reasoning: "", scores: { correct: right ? 4 : 0 } })
            }
          ]
        }),
      streamText: () => Stream.empty
    })
  )
  it.live("holds with a model that keeps to its frame", () =>
    Effect.gen(function* () {
      const verifier = judge({ rubric: { correct: "It is right." }, reference: () => "19" })
      const example = {
        task: { id: "sum", prompt: "12+7=?", data: {} },
        gold: ["19", "The sum is 19."],
        wrong: ["20", "The sum is 91."]
      }
      const report = yield* check(verifier, example, { cost: false })
      assert.isAbove(report.judged, 200)
      assertSound(report)
    }).pipe(Effect.provide(model))
  )
})
