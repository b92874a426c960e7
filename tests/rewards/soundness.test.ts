/** Every verifier of this library, held to the test kit. Where an expectation differs from the kit's, the reason stands beside it. */
import { describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import {
  jsonSchema,
  recordedTools,
  toolReplay,
  unitTests,
  type Recording,
  type UnitTestCase
} from "../../rewards/index.ts"
import { answer } from "../../rewards/Answer.ts"
import { assertSound, checkVerifier, mutations, type CheckOptions, type Example } from "../../rewards/testing.ts"
import {
  citations,
  formatTags,
  matchesPattern,
  ngramRepetition,
  textLength,
  writtenInScript
} from "../../rewards/TextVerifiers.ts"
import type { VerifierFunction } from "../../src/Verifier.ts"

const holds = async <Data>(
  verifier: VerifierFunction<Data>,
  examples: Example<Data> | ReadonlyArray<Example<Data>>,
  options: CheckOptions<Data> = {}
): Promise<void> => assertSound(await checkVerifier(verifier, examples, options))

/** They judge all that was said, as in a single turn; of several turns, see each verifier's own tests. */
const singleTurn = { "observed-gold": "either" } as const

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
  const expect = { ...singleTurn, "commented-gold": "either" } as const
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
  const anyNumber = { ...singleTurn, "off-by-one": "either", negated: "either", "commented-gold": "either" } as const
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
  it("holds", () => holds(verifier, example, { expect: singleTurn }))
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
