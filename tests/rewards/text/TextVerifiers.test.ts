import { assert, describe, it } from "@effect/vitest"
import fc from "fast-check"
import {
  citations,
  formatTags,
  matchesPattern,
  ngramRepetition,
  textLength,
  writtenInLanguage,
  writtenInScript
} from "../../../rewards/index.ts"
import { policyTokens, type Trajectory } from "../../../src/rollout/Trajectory.ts"
import type { Scored, VerifierFunction } from "../../../src/score/Verifier.ts"
import { trajectory } from "../../fixtures/trajectories.ts"
import { OptionError } from "quintain"

const task = { id: "t", prompt: "", data: { n: 2, pattern: "^b", sources: [3, 5] } }
const judge = (verifier: VerifierFunction, of: string | Trajectory): Omit<Scored, "_tag"> =>
  verifier({
    task,
    trajectory: typeof of === "string" ? trajectory(of) : of,
    signal: new AbortController().signal
  }) as Omit<Scored, "_tag">
const score = (verifier: VerifierFunction, of: string | Trajectory): number => judge(verifier, of).score

describe("matchesPattern", () => {
  it("matches anywhere, the whole text, or nowhere", () => {
    assert.strictEqual(score(matchesPattern("b+"), "abbc"), 1)
    assert.strictEqual(score(matchesPattern("b+"), "ac"), 0)
    assert.strictEqual(score(matchesPattern("b+", { whole: true }), "abbc"), 0)
    assert.strictEqual(score(matchesPattern("a|abbc", { whole: true }), "abbc"), 1)
    assert.strictEqual(score(matchesPattern("b", { whole: true, flags: "m" }), "a\nb\nc"), 0)
    assert.strictEqual(score(matchesPattern("b+", { absent: true }), "abbc"), 0)
    assert.strictEqual(score(matchesPattern("b+", { absent: true }), "ac"), 1)
  })

  it("has the flags of a RegExp, and patterns by task", () => {
    assert.strictEqual(score(matchesPattern(/B/i), "b"), 1)
    assert.strictEqual(score(matchesPattern(/B/), "b"), 0)
    assert.strictEqual(score(matchesPattern("^c$", { flags: "m" }), "a\nc"), 1)
    assert.strictEqual(score(matchesPattern("a.c", { flags: "s" }), "a\nc"), 1)
    assert.strictEqual(
      score(
        matchesPattern((of) => of.data.pattern),
        "bc"
      ),
      1
    )
    assert.strictEqual(
      score(
        matchesPattern((of) => of.data.pattern),
        "cb"
      ),
      0
    )
    assert.throws(() => matchesPattern("a", { flags: "g" }), /flags i, m and s/)
  })

  it("means what ECMAScript means", () => {
    for (const space of ["\u00a0", "\u2003", "\ufeff", "\u2028", "\v"]) {
      assert.strictEqual(score(matchesPattern("^\\s$"), space), 1)
      assert.strictEqual(score(matchesPattern("^[x\\s]$"), space), 1)
      assert.strictEqual(score(matchesPattern("^[\\S]$"), space), 0)
      assert.strictEqual(score(matchesPattern("^[^\\s]$"), space), 0)
    }
    assert.strictEqual(score(matchesPattern("^\\p{Letter}\\p{gc=Nd}\\p{Script=Greek}$"), "é٣α"), 1)
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 3 }), (text) => {
        for (const source of ["^\\s*$", "^\\S*$", "^[\\S]+$", "^\\w+$", "\\d", "^\\p{Lu}", "[^\\s\\d]"]) {
          assert.strictEqual(score(matchesPattern(source), text), Number(new RegExp(source, "u").test(text)), source)
        }
      }),
      { numRuns: 100 }
    )
  })

  // seconds to forever in an engine that backtracks
  it("takes linear time, and refuses what has none", () => {
    const long = `${"a".repeat(1_000_000)}!`
    for (const pattern of ["^(a+)+$", "^(a|a)*$", "(x+x+)+y", "^(a?){50}a{50}$"]) {
      assert.strictEqual(score(matchesPattern(pattern), long), 0)
    }
    for (const pattern of [
      "(?=a)b",
      "(?<!a)b",
      "(a)\\1",
      "((a{1000}){1000}){1000}",
      "(?:ab?){900}[a-z]{1,900}".repeat(20)
    ]) {
      assert.throws(() => matchesPattern(pattern), OptionError)
    }
  })
})

describe("textLength", () => {
  it("counts words, characters and tokens", () => {
    assert.strictEqual(judge(textLength({}), "It's well-known: 3.5 apples, né?").metrics!["length"], 5)
    assert.strictEqual(judge(textLength({}), "我是学生").metrics!["length"], 4)
    assert.strictEqual(judge(textLength({}), "x".repeat(1000)).metrics!["length"], 1000)
    assert.strictEqual(judge(textLength({}), " \n.,!").metrics!["length"], 0)
    assert.strictEqual(judge(textLength({}, { unit: "characters" }), "a😀é").metrics!["length"], 3)
    const tokens = trajectory("abc")
    const policy = policyTokens(tokens)
    assert.isAbove(policy, 0)
    assert.strictEqual(judge(textLength({}, { unit: "tokens" }), tokens).metrics!["length"], policy)
  })

  it("has hard edges, or falls off on a line", () => {
    const of = (count: number) => "w ".repeat(count)
    const hard = textLength({ min: 2, max: 4 })
    assert.deepStrictEqual(
      [1, 2, 4, 5].map((count) => score(hard, of(count))),
      [0, 1, 1, 0]
    )
    const soft = textLength({ min: 2, max: 4 }, { margin: 4 })
    assert.deepStrictEqual(
      [0, 1, 2, 4, 5, 7, 8, 100].map((count) => score(soft, of(count))),
      [0.5, 0.75, 1, 1, 0.75, 0.25, 0, 0]
    )
    assert.strictEqual(
      score(
        textLength((t) => ({ max: t.data.n })),
        of(3)
      ),
      0
    )
    assert.match(judge(hard, of(5)).reason!, /5 words, 1 too many/)
    assert.throws(() => textLength({ min: 3, max: 2 }), OptionError)
    assert.throws(() => textLength({ max: Number.NaN }), OptionError)
    assert.throws(() => textLength({}, { margin: -1 }), OptionError)
  })
})

describe("writtenInScript", () => {
  it("counts letters by script", () => {
    assert.strictEqual(score(writtenInScript(["Latin"]), "Hello, world 123 ¡né!"), 1)
    assert.strictEqual(score(writtenInScript(["Latin"]), "Привет"), 0)
    // a Cyrillic а among Latin letters
    assert.strictEqual(score(writtenInScript(["Latin"], { min: 1 }), "p\u0430ypal"), 0)
    assert.strictEqual(score(writtenInScript(["Han", "Hiragana"]), "私は学生です。"), 1)
    assert.strictEqual(score(writtenInScript(["Latin"], { min: 0.5 }), "ab аб"), 1)
    assert.strictEqual(score(writtenInScript(["Latin"]), "123 !"), 0)
    assert.throws(() => writtenInScript(["Klingon"]), OptionError)
    assert.throws(() => writtenInScript(["Latin}|."]), OptionError)
    assert.throws(() => writtenInScript([]), OptionError)
  })
})

describe("writtenInLanguage", () => {
  const english = "The weather was fine this morning, so we walked along the river and talked about what to cook. "
  const spanish = "El tiempo era bueno esta mañana, así que caminamos junto al río y hablamos de qué cocinar. "
  const german = "Das Wetter war heute Morgen schön, also gingen wir am Fluss entlang und sprachen über das Essen. "
  const judge = async (languages: ReadonlyArray<string>, text: string) =>
    (await writtenInLanguage(languages)({
      task,
      trajectory: trajectory(text),
      signal: new AbortController().signal
    })) as {
      readonly score: number
      readonly reason: string
    }

  it("tells languages of one script apart", async () => {
    for (const [code, text] of Object.entries({ en: english, es: spanish, de: german })) {
      for (const other of ["en", "es", "de"]) {
        assert.strictEqual((await judge([other], text)).score, Number(other === code), `${text} as ${other}`)
      }
    }
    assert.strictEqual((await judge(["ja"], "今日は天気がいいので、川沿いを散歩しました。")).score, 1)
    assert.strictEqual((await judge(["en", "es"], english.repeat(5) + spanish.repeat(5))).score, 1)
  })

  it("is not content with a beginning", async () => {
    const mixed = await judge(["es"], spanish.repeat(6) + english.repeat(30))
    assert.deepInclude(mixed, { score: 0, reason: "mostly en" })
    assert.deepInclude(await judge(["es"], "12 + 7 = 19"), { score: 0, reason: "no letters" })
  })

  it("takes time linear in the text", async () => {
    for (const unit of ["a", "a ", "\u0301", "哈", "http://a", "a@", "\n"]) {
      assert.isTrue(Number.isFinite((await judge(["en"], unit.repeat(100_000))).score))
    }
  })

  it("refuses what is not code of a language", async () => {
    for (const languages of [["Klingon"], []]) {
      const fault = await judge(languages, english).catch((fault: unknown) => fault)
      assert.instanceOf(fault, OptionError)
    }
  })
})

describe("formatTags", () => {
  const format = formatTags(["think", "answer"])
  it("takes each element once, in order, and nothing outside", () => {
    assert.strictEqual(score(format, "<think>a</think><answer>b</answer>"), 1)
    assert.strictEqual(score(format, " <think>\na < b\n</think>\n\n<answer>b</answer>\n"), 1)
    for (const wrong of [
      "",
      "a",
      "<think>a</think>",
      "<answer>b</answer><think>a</think>",
      "<think>a</think><answer>b</answer><answer>c</answer>",
      "<think>a</think><think>a</think><answer>b</answer>",
      "<think>a<answer>b</answer></think>",
      "<think>a</think><answer>b",
      "</think>a<think><answer>b</answer>",
      "<think>a</answer><answer>b</think>",
      "x<think>a</think><answer>b</answer>",
      "<think>a</think>x<answer>b</answer>",
      "<think>a</think><answer>b</answer>x",
      "<think> </think><answer>b</answer>",
      "<think>a</think><answer></answer>",
      "<think>a</think></think><answer>b</answer>",
      "<Think>a</Think><answer>b</answer>"
    ]) {
      assert.strictEqual(score(format, wrong), 0, wrong)
    }
  })

  it("has options for text outside, empty elements, and what the prompt has opened", () => {
    const text = "x<think></think>y<answer>b</answer>z"
    assert.strictEqual(score(formatTags(["think", "answer"], { outside: true, empty: true }), text), 1)
    assert.strictEqual(score(formatTags(["think", "answer"], { outside: true }), text), 0)
    assert.strictEqual(score(formatTags(["think", "answer"], { empty: true }), text), 0)
    const opened = formatTags(["think"], { opened: true })
    assert.strictEqual(score(opened, "a</think>"), 1)
    assert.strictEqual(score(opened, "<think>a</think>"), 0)
    assert.throws(() => formatTags(["a", "a"]), OptionError)
  })
})

describe("ngramRepetition", () => {
  it("is the share of distinct n-grams", () => {
    // 5 bigrams, of which "a b" is there three times and "b a" twice
    assert.strictEqual(score(ngramRepetition({ n: 2 }), "a b a b a b"), 0.4)
    assert.strictEqual(score(ngramRepetition({ n: 2 }), "A b a B a b"), 0.4)
    assert.strictEqual(score(ngramRepetition({ n: 2 }), "a b c d"), 1)
    assert.strictEqual(score(ngramRepetition({ n: 2, allowed: 0.6 }), "a b a b a b"), 1)
    assert.strictEqual(score(ngramRepetition({ n: 2, allowed: 0.5 }), "a b a b a b"), 0.8)
    assert.strictEqual(score(ngramRepetition({ n: 9 }), "a b"), 1)
    assert.strictEqual(score(ngramRepetition(), ""), 1)
    assert.throws(() => ngramRepetition({ n: 0 }), OptionError)
    assert.throws(() => ngramRepetition({ allowed: 1 }), OptionError)
  })

  it("sees repetition without spaces, and of tokens", () => {
    assert.isBelow(score(ngramRepetition(), "ha".repeat(1000)), 0.01)
    assert.isBelow(score(ngramRepetition(), "哈".repeat(1000)), 0.01)
    // three policy tokens, all the same
    const repeated = trajectory("")
    assert.strictEqual(score(ngramRepetition({ unit: "tokens", n: 1 }), repeated), 1 / 3)
  })
})

describe("citations", () => {
  it("wants enough known sources, and no other", () => {
    const two = citations(3, { required: 2 })
    assert.strictEqual(score(two, "A [1]. B[3]."), 1)
    assert.strictEqual(score(two, "A [1, 2]."), 1)
    assert.strictEqual(score(two, "A [1][1]."), 0)
    assert.strictEqual(score(two, "A [1][2][4]."), 0)
    assert.strictEqual(score(two, "A [0][1][2]."), 0)
    assert.strictEqual(score(two, "[1] [2] [a] [1; [] [1.5]"), 1)
    assert.strictEqual(score(two, "[1] [2] [99999999999999999999]"), 0)
    assert.strictEqual(
      score(
        citations((t) => t.data.sources),
        "[5]"
      ),
      1
    )
    assert.strictEqual(
      score(
        citations((t) => t.data.sources),
        "[4]"
      ),
      0
    )
    assert.strictEqual(score(citations(3), "none"), 0)
    assert.strictEqual(score(citations(3, { required: 0 }), "none"), 1)
  })
})

describe("all of them", () => {
  const verifiers = [
    matchesPattern("a+b"),
    textLength({ max: 10 }, { margin: 5 }),
    textLength({ max: 10 }, { unit: "characters" }),
    writtenInScript(["Latin"]),
    formatTags(["think", "answer"]),
    ngramRepetition(),
    citations(3)
  ]

  // each of these would take minutes in quadratic time
  it("take time linear in the text", () => {
    const units = [
      "a",
      "a ",
      "[",
      "[1,",
      "[1 ,",
      "<think>",
      "</think>",
      " ",
      "'",
      "a'",
      "a-",
      "哈",
      "\u0301",
      "1,",
      "\n",
      "\ud800"
    ]
    for (const unit of units) {
      const text = unit.repeat(Math.ceil(300_000 / unit.length))
      for (const verifier of verifiers) assert.isTrue(Number.isFinite(score(verifier, text)))
    }
  })

  it("score from 0 to 1 whatever the text", () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.string({ unit: "binary" })), (text) => {
        for (const verifier of verifiers) {
          const value = score(verifier, text)
          assert.isTrue(value >= 0 && value <= 1)
        }
      })
    )
  })
})
