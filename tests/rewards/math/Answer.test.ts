import { afterAll, assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { answer, extractAnswer, type AnswerOptions, type Extraction } from "../../../rewards/math/Answer.ts"
import { choices, maxText } from "../../../rewards/math/internal/extractAnswer.ts"
import { close } from "../../../rewards/math/internal/evaluator.ts"
import { numbers } from "../../../rewards/math/internal/numbers.ts"
import * as Q from "../../../rewards/math/internal/rational.ts"
import { exactMatch, normalise, tokenF1 } from "../../../rewards/math/internal/normaliseAnswer.ts"
import { ofText } from "../../../src/rollout/Trajectory.ts"
import type { Scored, Unscorable } from "../../../src/score/Verifier.ts"
import { trajectory } from "../../fixtures/trajectories.ts"

afterAll(close)

interface Data {
  readonly answer: unknown
}
const judge = async (
  expected: unknown,
  text: string,
  options: AnswerOptions<Data> = {}
): Promise<Omit<Scored, "_tag"> | Unscorable> =>
  (await answer<Data>(options)({
    task: { id: "t", prompt: "", data: { answer: expected } },
    trajectory: trajectory(text),
    signal: new AbortController().signal
  })) as Omit<Scored, "_tag"> | Unscorable
const score = async (expected: unknown, text: string, options?: AnswerOptions<Data>): Promise<number | undefined> => {
  const verdict = await judge(expected, text, options)
  return "score" in verdict ? verdict.score : undefined
}
const found = (text: string, ...ways: ReadonlyArray<Extraction>): string | undefined => {
  const candidate = extractAnswer(text, ways)
  return "text" in candidate ? candidate.text : undefined
}
const texts = (text: string): ReadonlyArray<string> =>
  numbers(text).map(({ value, percent }) => `${Q.text(value)}${percent ? "%" : ""}`)

describe("extraction", () => {
  it("boxes: the last, braces within braces", () => {
    assert.strictEqual(found("\\boxed{1} then \\boxed{\\frac{1}{2}}", "boxed"), "\\frac{1}{2}")
    assert.strictEqual(found("\\boxed{\\{1,2\\}}", "boxed"), "\\{1,2\\}")
    assert.strictEqual(found("$\\boxed 7$", "boxed"), "7")
    assert.strictEqual(found("\\fbox{3}", "boxed"), "3")
    for (const text of ["\\boxed{1", "\\boxed{}", "\\boxed", "\\boxed{ }"])
      assert.strictEqual(found(text, "boxed"), undefined)
  })

  it("an answer that is none is not looked for elsewhere", () => {
    assert.strictEqual(found("It is 5. \\boxed{}", "boxed", "lastNumber"), undefined)
    assert.strictEqual(found("#### \n5", "hash", "lastNumber"), undefined)
    assert.strictEqual(found("no box, but 5", "boxed", "lastNumber"), "5")
  })

  it("GSM8K's line", () => {
    assert.strictEqual(found("a\n#### 1,234\n", "hash"), "1,234")
    assert.strictEqual(found("#### 1\n#### 2", "hash"), "2")
  })

  it("what is said to be the answer", () => {
    const said: ReadonlyArray<readonly [string, string]> = [
      ["The answer is 3.5.", "3.5"],
      ["the final answer is: **42**. I hope it helps.", "42"],
      ["Answer: $\\frac{1}{2}$ of it", "\\frac{1}{2}"],
      ["The answer is 4. No, the answer is 5!", "5"],
      ["**Answer:** Paris", "Paris"],
      ["The answer is $\\boxed{9}$.", "9"],
      ["The answer is 7, because 3 + 4 = 7.", "7"]
    ]
    for (const [text, expected] of said) assert.strictEqual(found(text, "phrase"), expected, text)
    assert.strictEqual(found("There is no such thing here.", "phrase"), undefined)
  })

  it("formulas, which money is not", () => {
    assert.strictEqual(found("with $x$ we get $y = 2$ at last", "latex"), "y = 2")
    assert.strictEqual(found("\\(1\\) and \\[ 2 \\]", "latex"), "2")
    assert.strictEqual(found("$$a$$", "latex"), "a")
    assert.strictEqual(found("He pays $5 and then $7 more", "latex"), undefined)
  })

  it("only what follows the reasoning", () => {
    assert.strictEqual(found("<think>\\boxed{1}</think> \\boxed{2}", "boxed"), "2")
    assert.strictEqual(found("<think>\\boxed{1}</think> I do not know", "boxed"), undefined)
    assert.strictEqual(found("<think>\\boxed{1} so", "boxed"), undefined)
    assert.strictEqual(found("\\boxed{1}<think>", "boxed"), undefined)
  })
})

describe("numbers", () => {
  it("reads them as they are written", () => {
    const cases: ReadonlyArray<readonly [string, ReadonlyArray<string>]> = [
      ["it is 5.", ["5"]],
      ["1,234,567.50", ["2469135/2"]],
      ["$1,000 and -3", ["1000", "-3"]],
      ["−7", ["-7"]],
      ["-$5", ["-5"]],
      ["(5)", ["5"]],
      ["x = 72", ["72"]],
      ["**72**", ["72"]],
      ["50% or 50 percent", ["50%", "50%"]],
      ["3/4 and 1 3/4", ["3/4", "7/4"]],
      ["\\frac{3}{4}", ["3/4"]],
      ["-\\frac{3}{4}", ["-3/4"]],
      [".5", ["1/2"]],
      ["1e3 2.5E-1", ["1000", "1/4"]],
      ["5 million", ["5000000"]],
      ["2 dozen eggs", ["24"]],
      ["5kg and 6 m", ["5", "6"]],
      ["１２３", ["123"]],
      ["𝟏𝟐", ["12"]],
      ["10{,}000", ["10000"]],
      ["1,2,3", ["1", "2", "3"]],
      ["10 - 7 = 3", ["3"]],
      ["3 + 4 = 7", ["3", "4", "7"]],
      ["<<48/2=24>>24", ["24", "24", "24"]]
    ]
    for (const [text, expected] of cases) assert.deepStrictEqual(texts(text), expected, text)
  })

  it("leaves what only looks like one", () => {
    const none = [
      "x2",
      "COVID-19",
      "Q3",
      "1.2.3",
      "2024-01-02",
      "10:30",
      "5-7",
      "5–7 days",
      "5 to 7",
      "1st 2nd 3rd 4th",
      "5k",
      "2x",
      "٤٢",
      "४२",
      "①",
      "NaN",
      "Infinity",
      "one",
      "1/0",
      "1e99999",
      "5²".slice(1),
      "9".repeat(3000)
    ]
    for (const text of none) assert.deepStrictEqual(texts(text), [], text)
  })
})

describe("multiple choice", () => {
  const of = (text: string): string | undefined => {
    const candidate = choices(text, "ABCD")
    return candidate !== undefined && "text" in candidate ? candidate.text : undefined
  }

  it("reads the formats of models", () => {
    const cases = [
      "B",
      "(B)",
      "B.",
      "**B**",
      "B)",
      "The answer is B.",
      "The answer is (B) because A is wrong.",
      "Answer: B",
      "answer is **B**",
      "\\boxed{B}",
      "\\boxed{\\text{(B)}}",
      "So the correct answer is $\\boxed{B}$.",
      "Final answer: (B) the cat",
      "(B) a cat",
      "I think so.\n\nB. a cat",
      "The answer is B: A dog"
    ]
    for (const text of cases) assert.strictEqual(of(text), "B", text)
  })

  it("is not fooled by several", () => {
    const cases = [
      "A B C D",
      "(A) (B) (C) (D)",
      "The answer is A or B.",
      "The answer is A. The answer is B.",
      "\\boxed{A}\\boxed{B}",
      "\\boxed{A, B, C, D}",
      "A) B) C) D)",
      "",
      "The answer is obvious.",
      "I do not know",
      "E",
      "The answer is ABCD",
      "banana"
    ]
    for (const text of cases) assert.strictEqual(of(text), undefined, text)
  })

  it("scores", async () => {
    assert.strictEqual(await score("B", "The answer is (B).", { compare: "choice" }), 1)
    assert.strictEqual(await score("(B)", "B", { compare: "choice" }), 1)
    assert.strictEqual(await score("B", "The answer is (C).", { compare: "choice" }), 0)
    assert.strictEqual(await score("B", "A, B, C, D", { compare: "choice" }), 0)
    assert.strictEqual(await score("forty", "B", { compare: "choice" }), undefined)
  })
})

describe("answer", () => {
  const gsm8k: AnswerOptions<Data> = { extract: ["boxed", "hash", "lastNumber"], compare: "math" }

  it("compares numbers exactly, or within a stated tolerance", async () => {
    const number: AnswerOptions<Data> = { compare: "number" }
    assert.strictEqual(await score("1000", "It costs $1,000.00", number), 1)
    assert.strictEqual(await score(0.5, "1/2", number), 1)
    assert.strictEqual(await score("0.3333333333333333", "1/3", number), 0)
    assert.strictEqual(await score("10", "\\boxed{10 or 11}", number), 0)
    assert.strictEqual(await score("100", "101", { ...number, tolerance: { absolute: 1 } }), 1)
    assert.strictEqual(await score("100", "101.0000001", { ...number, tolerance: { absolute: 1 } }), 0)
    assert.strictEqual(await score("-100", "-101", { ...number, tolerance: { relative: 0.01 } }), 1)
    assert.strictEqual(await score("-100", "-99", { ...number, tolerance: { relative: 0.009 } }), 0)
    assert.strictEqual(await score("50", "50%", number), 0)
    assert.strictEqual(await score("1/2", "50%", number), 1)
    assert.strictEqual(await score("50", "50%", { ...number, percent: "unit" }), 1)
    assert.strictEqual(await score("5", "5 million", number), 0)
  })

  it("reads the expected answer of a GSM8K solution", async () => {
    assert.strictEqual(await score("48/2 = 24\n48+24 = 72\n#### 72", "so 72 clips", gsm8k), 1)
    assert.strictEqual(await score("48/2 = 24\n48+24 = 72\n#### 72", "so 24 clips", gsm8k), 0)
  })

  it("pays for one answer, not for many, and for nothing else", async () => {
    const hopeless = [
      "",
      " ",
      "\\boxed{}",
      "####",
      "The answer is",
      "#### \\boxed{}",
      "NaN",
      "Infinity",
      "\\infty",
      "71 72 73 74",
      "\\boxed{71, 72, 73}",
      "\\boxed{72 or 73}",
      "#### 72 73",
      "\\boxed{\\{71,72\\}}",
      "7 2",
      "٧٢",
      "72e400",
      "-72",
      "7\u200b2",
      "<think>\\boxed{72}",
      "\\boxed{72",
      "\\boxed{7}2",
      "seventy-two",
      "72".repeat(50),
      "\\boxed{72\\pm1}",
      "\\boxed{72!}",
      "7²",
      `\\boxed{${"(".repeat(3000)}72${")".repeat(3000)}}`,
      `\\boxed{${"72 ".repeat(700_000)}}`
    ]
    for (const text of hopeless) assert.strictEqual(await score("72", text, gsm8k), 0, text.slice(0, 60))
    assert.strictEqual(await score("72", "\\boxed{72}", gsm8k), 1)
  })

  it("judges the policy's last turn, not what tools said after it", async () => {
    const verify = answer<Data>({ compare: "number" })
    const task = { id: "t", prompt: "", data: { answer: "72" } }
    const verdict = await verify({
      task,
      trajectory: ofText("I say 5. Tool: 72", task, { turns: ["I say 72", "I say 5"] }),
      signal: new AbortController().signal
    })
    assert.strictEqual((verdict as Scored).score, 0)
  })

  it("any of several expected answers, each by the comparison that is asked for", async () => {
    assert.strictEqual(await score(["Paris", "Lutetia"], "The answer is Lutetia.", { compare: "exact" }), 1)
    assert.strictEqual(await score("The Eiffel Tower", "eiffel tower!", { compare: "normalised" }), 1)
    assert.strictEqual(await score("Eiffel Tower", "eiffel tower!", { compare: "exact" }), 0)
    assert.approximately((await score("the cat sat", "a cat sat down", { compare: "f1" }))!, 0.8, 1e-12)
    assert.strictEqual(await score("ab", "whole: b", { compare: (a, b) => (a.includes(b[1]!) ? 0.25 : 0) }), 0.25)
    assert.strictEqual(
      await score("x", "<a>x</a>", { extract: (text) => /<a>(.*?)<\/a>/.exec(text)?.[1], compare: "exact" }),
      1
    )
  })

  it("is unscorable where the task is at fault, and never otherwise", async () => {
    for (const expected of [undefined, null, "", "  ", Number.NaN, Infinity, [], [""], {}, true]) {
      assert.isUndefined(await score(expected, "5"), JSON.stringify(expected))
    }
    assert.isUndefined(await score("1/0", "\\boxed{5}"))
    assert.isUndefined(await score("5 or 6", "5", { compare: "number" }))
    assert.throws(() => answer({ tolerance: { absolute: Number.NaN } }), /tolerance\.absolute/)
    assert.throws(() => answer({ extract: [] }), /extract/)
    assert.throws(() => answer({ choices: "a-d" }), /choices/)
  })

  it("reads a megabyte of anything", async () => {
    const size = 1_000_000
    const hostile = [
      "1",
      "9,",
      "1.",
      "1/",
      "1-",
      "-",
      "1 ",
      "$",
      "\\boxed{",
      "\\boxed{1} ",
      "####",
      "#### \n",
      "answer is ",
      "answer is 1. ",
      "{",
      "}",
      "\\",
      "A) ",
      "(A",
      " A",
      "\\(",
      "\\frac{1}",
      "\u0301",
      "\ud800",
      "<think>",
      "</think>",
      "1 1/2",
      "a1",
      "1:",
      ".",
      "the ",
      "％",
      "𝟏",
      "\n",
      "*",
      "(B"
    ].map((part) => part.repeat(Math.ceil(size / part.length)))
    const ways: ReadonlyArray<AnswerOptions<Data>> = [
      { compare: "number" },
      gsm8k,
      { compare: "choice" },
      { compare: "f1" },
      { compare: "normalised" },
      { extract: ["latex", "lastNumber"] }
    ]
    for (const whole of hostile) {
      for (const way of ways) {
        // all of it once, and enough of it for the others to show what is not linear
        const text = way === gsm8k ? whole : whole.slice(0, size / 8)
        const expected = way.compare === "choice" ? "Q" : "123456"
        assert.strictEqual(
          await score(expected, text, { ...way, choices: "ABQ" }),
          0,
          `${text.slice(0, 12)} ${JSON.stringify(way)}`
        )
      }
    }
    assert.strictEqual(await score("72", `${"x ".repeat(size / 2)}#### 72`, gsm8k), 1)
    assert.strictEqual(await score("72", `${"x".repeat(maxText)}#### 72`, gsm8k), 0)
  })
})

describe("normalisation", () => {
  const anything = fc.oneof(
    fc.string({ unit: "binary" }),
    fc.string({ unit: "grapheme" }),
    fc.string({ unit: fc.constantFrom(..."0123456789.,/:-%^²½①٤ aAnthe'’$+(\u0301\ue000İß") })
  )

  it("is SQuAD's", () => {
    assert.strictEqual(normalise("  The  Cat's, an (old) hat. "), "cats old hat")
    assert.strictEqual(tokenF1("the cat sat", "a cat sat down"), 0.8)
    assert.strictEqual(tokenF1("", "x"), 0)
    assert.strictEqual(tokenF1("x x x x", "x"), 0.4)
    assert.strictEqual(tokenF1("y", "x"), 0)
  })

  it("keeps numbers apart", () => {
    const apart: ReadonlyArray<readonly [string, string]> = [
      ["1.5", "15"],
      ["-5", "5"],
      ["5%", "5"],
      ["1/2", "12"],
      ["5²", "52"],
      ["5½", "512"],
      ["5①", "51"],
      ["10:30", "1030"],
      ["(1)(2)", "12"],
      [".5", "5"],
      ["5\ue0003", "5.3"],
      ["1,5", "15"]
    ]
    for (const [a, b] of apart) assert.isFalse(exactMatch(a, b), `${a} ${b}`)
  })

  it("is idempotent and never throws", () =>
    fc.assert(
      fc.property(anything, (text) => {
        const once = normalise(text)
        assert.strictEqual(normalise(once), once)
      }),
      // Hangul that composes once the bracket between is gone
      { numRuns: 3000, examples: [["\u320e\u3135"]] }
    ))

  it("compares symmetrically", () =>
    fc.assert(
      fc.property(anything, anything, (a, b) => {
        assert.strictEqual(exactMatch(a, b), exactMatch(b, a))
        assert.approximately(tokenF1(a, b), tokenF1(b, a), 1e-12)
        assert.isTrue(exactMatch(a, a))
      })
    ))

  it("makes no two rational numbers one", () => {
    const rational = fc.record({
      n: fc.integer({ min: -2000, max: 2000 }),
      d: fc.integer({ min: 1, max: 50 }),
      form: fc.integer({ min: 0, max: 3 })
    })
    const written = ({ n, d, form }: { n: number; d: number; form: number }): readonly [string, Q.Rational] => {
      if (form === 0) return [`${n}`, Q.integer(n)]
      if (form === 1) return [`${n}/${d}`, Q.ratio(BigInt(n), BigInt(d))]
      if (form === 2) return [`${n}%`, Q.ratio(BigInt(n), 100n)]
      return [(n / 1000).toFixed(3), Q.ratio(BigInt(n), 1000n)]
    }
    fc.assert(
      fc.property(rational, rational, fc.constantFrom("", "about ", "(", "$"), (a, b, before) => {
        const [x, p] = written(a)
        const [y, q] = written(b)
        fc.pre(!Q.equal(p, q))
        assert.isFalse(exactMatch(before + x, before + y), `${before + x} ${before + y}`)
      }),
      { numRuns: 3000 }
    )
  })

  it("finds numbers in any text without throwing", () =>
    fc.assert(
      fc.property(anything, (text) => assert.isArray(numbers(text))),
      { numRuns: 2000 }
    ))
})
