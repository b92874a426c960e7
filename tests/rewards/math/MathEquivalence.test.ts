import { afterAll, assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { readFileSync } from "node:fs"
import { close } from "../../../rewards/math/internal/evaluator.ts"
import { equivalent } from "../../../rewards/math/MathEquivalence.ts"

afterAll(close)

type Pair = readonly [actual: string, expected: string, equal: boolean]
const pairs = JSON.parse(
  readFileSync(new URL("../../fixtures/math-equivalence.json", import.meta.url), "utf8")
) as ReadonlyArray<Pair>

const equal = async (actual: string, expected: string): Promise<boolean> =>
  (await equivalent(actual, expected))._tag === "Equal"

describe("equivalent", () => {
  it("tells equal from different mathematics", async () => {
    const wrong: Array<string> = []
    let asked = 0
    for (const [actual, expected, same] of pairs) {
      const verdict = await equivalent(actual, expected)
      if ((verdict._tag === "Equal") !== same) wrong.push(`${same ? "rejects" : "accepts"} ${actual} for ${expected}`)
      if (verdict._tag === "Equal" ? verdict.by === "numeric" : verdict._tag === "Different" && verdict.asked) asked++
    }
    assert.deepStrictEqual(wrong, [])
    assert.isAtLeast(pairs.length, 150)
    // the library is for what algebra leaves open
    assert.isBelow(asked, pairs.length / 10)
  })

  it("is symmetric where neither side has a unit", async () => {
    for (const [actual, expected, same] of pairs) {
      if (/text|cm|\$|°|circ|€|apples|months/.test(actual + expected) || !same) continue
      assert.isTrue(await equal(expected, actual), `${expected} for ${actual}`)
    }
  })

  it("says what decided", async () => {
    assert.deepStrictEqual(await equivalent("0.5", "1/2"), { _tag: "Equal", by: "exact" })
    assert.deepStrictEqual(await equivalent("\\arctan 1", "\\frac{\\pi}{4}"), { _tag: "Equal", by: "numeric" })
    assert.deepStrictEqual(await equivalent("\\text{Tuesday}", "tuesday"), { _tag: "Equal", by: "text" })
  })

  it("takes percent for a value or for a unit, as told", async () => {
    assert.isFalse(await equal("50%", "50"))
    assert.strictEqual((await equivalent("50%", "50", { percent: "unit" }))._tag, "Equal")
    assert.strictEqual((await equivalent("50", "50%", { percent: "unit" }))._tag, "Different")
    assert.strictEqual((await equivalent("50\\%", "1/2", { percent: "unit" }))._tag, "Different")
  })

  it("bounds what would hang before it is computed", async () => {
    const nested = (open: string, close: string, depth: number) => open.repeat(depth) + "1" + close.repeat(depth)
    const hostile = [
      "9^{9^{9^9}}",
      "100000!",
      "((10^9)!)!",
      "2^{2^{2^{2^{2^2}}}}",
      "10^{10^{10}}",
      "(x+1)^{1000000}",
      "(a+b+c+d+e+f+g)^{60}",
      "(x+1)^{50}(y+1)^{50}(z+1)^{50}",
      "(\\sqrt2+\\sqrt3+\\sqrt5+\\sqrt7+\\sqrt{11}+\\sqrt{13})^{60}",
      "\\binom{10^{9}}{5\\cdot10^{8}}",
      "\\sqrt{170141183460469231731687303715884105727170141183460469231731687303715884105729}",
      "1e99999999",
      "9".repeat(1999),
      "9".repeat(1_000_000),
      "\\frac{1}{".repeat(40) + "x+1" + "}".repeat(40),
      nested("(", ")", 3000),
      nested("{", "}", 3000),
      nested("\\sqrt{", "}", 3000),
      nested("\\frac{1}{", "}", 200),
      nested("[", "]", 900),
      "-".repeat(1901) + "1",
      "\\sqrt".repeat(390) + "2",
      "2^".repeat(900) + "2",
      "\\sin".repeat(400) + "1",
      "3" + "!".repeat(1900),
      "1,".repeat(900) + "1",
      "|".repeat(1900),
      "\\boxed{".repeat(200),
      "x".repeat(1_000_000),
      "\\text{".repeat(100_000),
      "\u0301".repeat(1_000_000),
      "\ud800"
    ]
    for (const text of hostile) {
      const verdict = await equivalent(text, "1")
      assert.strictEqual(verdict._tag, "Different", `${text.slice(0, 40)}: ${JSON.stringify(verdict)}`)
    }
  })

  it("ends an evaluation that hangs, which is the answer's doing, and goes on", async () => {
    const verdict = await equivalent("\\sum_{i=1}^{10^9} i", "500000000500000000", { deadline: 300 })
    assert.deepStrictEqual(verdict, { _tag: "Different", reason: "timeout", asked: true })
    assert.isTrue(await equal("\\sum_{i=1}^{10} i", "55"))
    assert.isTrue(await equal("\\sqrt{3+2\\sqrt2}", "1+\\sqrt2"))
  })

  it("leaves to nobody's account an expected answer that nothing can equal", async () => {
    for (const expected of ["1/0", "\\infty", "100000!", "9".repeat(5000)]) {
      const verdict = await equivalent("1", expected)
      assert.isTrue(verdict._tag === "Undecided" && verdict.fault === "expected", expected)
    }
  })

  it("stops when it is told to", async () => {
    const controller = new AbortController()
    const stopped = equivalent("\\sum_{i=1}^{10^9} i", "1", { deadline: 60_000, signal: controller.signal })
    setTimeout(() => controller.abort(), 100)
    const verdict = await stopped
    assert.isTrue(verdict._tag === "Undecided" && verdict.fault === "infrastructure")
    assert.isTrue(await equal("\\arctan 1", "\\frac{\\pi}{4}"))
  })
})

describe("properties", () => {
  const whole = fc.bigInt({ min: -(10n ** 30n), max: 10n ** 30n })
  const below = fc.bigInt({ min: 1n, max: 10n ** 12n })
  /** One rational number, written in a way of its own. */
  const written = (n: bigint, d: bigint, form: number): string =>
    [
      `${n}/${d}`,
      `\\frac{${n}}{${d}}`,
      `\\dfrac{${n * 3n}}{${d * 3n}}`,
      `${n} \\cdot \\frac{1}{${d}}`,
      `$${n * 2n} / ${d * 2n}$`,
      `\\frac{${n * 100n}}{${d}}\\%`
    ][form]!
  const form = fc.integer({ min: 0, max: 5 })

  it("a rational number equals itself however it is written", () =>
    fc.assert(
      fc.asyncProperty(whole, below, form, form, async (n, d, f, g) => {
        assert.isTrue(await equal(written(n, d, f), written(n, d, g)))
      })
    ))

  it("two different rational numbers are never equal", () =>
    fc.assert(
      fc.asyncProperty(whole, below, whole, below, form, form, async (n, d, m, e, f, g) => {
        fc.pre(n * e !== m * d)
        assert.isFalse(await equal(written(n, d, f), written(m, e, g)))
      })
    ))

  it("a number is never equal to its neighbour, however far out", () =>
    fc.assert(
      fc.asyncProperty(whole, fc.integer({ min: 1, max: 300 }), async (n, places) => {
        assert.isFalse(await equal(`${n}+10^{-${places}}`, `${n}`))
        assert.isFalse(await equal(`\\sqrt{2}+${n}+10^{-${places}}`, `\\sqrt{2}+${n}`))
      })
    ))

  it("a polynomial equals its expansion, and no other", () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: -9, max: 9 }), { minLength: 1, maxLength: 4 }),
        fc.integer({ min: 0, max: 4 }),
        async (roots, at) => {
          let expanded = [1]
          for (const root of roots) {
            const next = [...expanded, 0]
            expanded.forEach((coefficient, index) => (next[index + 1]! -= root * coefficient))
            expanded = next
          }
          const text = (coefficients: ReadonlyArray<number>) =>
            coefficients.map((coefficient, index) => `(${coefficient})x^{${coefficients.length - 1 - index}}`).join("+")
          const factored = roots.map((root) => `(x-(${root}))`).join("")
          assert.isTrue(await equal(factored, text(expanded)))
          const other = expanded.with(at % expanded.length, expanded[at % expanded.length]! + 1)
          assert.isFalse(await equal(factored, text(other)))
        }
      )
    ))

  it("arithmetic gives the value that it gives elsewhere, and none beside it", () => {
    /** A text and its value, computed apart. */
    interface Tree {
      readonly text: string
      readonly n: bigint
      readonly d: bigint
    }
    const leaf = fc.integer({ min: 1, max: 40 }).map((n): Tree => ({ text: `${n}`, n: BigInt(n), d: 1n }))
    const join = (a: Tree, b: Tree, sign: number): Tree => {
      if (sign === 0) return { text: `(${a.text}+${b.text})`, n: a.n * b.d + b.n * a.d, d: a.d * b.d }
      if (sign === 1) return { text: `\\left(${a.text} - ${b.text}\\right)`, n: a.n * b.d - b.n * a.d, d: a.d * b.d }
      if (sign === 2) return { text: `(${a.text}) \\times (${b.text})`, n: a.n * b.n, d: a.d * b.d }
      if (sign === 3)
        return { text: `\\frac{${a.text}}{(${b.text})^2+1}`, n: a.n * b.d ** 2n, d: a.d * (b.n ** 2n + b.d ** 2n) }
      return { text: `-(${a.text})^{3}`, n: -(a.n ** 3n), d: a.d ** 3n }
    }
    const { tree } = fc.letrec<{ tree: Tree }>((tie) => ({
      tree: fc.oneof(
        { depthSize: "small", withCrossShrink: true },
        leaf,
        fc.tuple(tie("tree"), tie("tree"), fc.integer({ min: 0, max: 4 })).map(([a, b, sign]) => join(a, b, sign))
      )
    }))
    return fc.assert(
      fc.asyncProperty(tree, async ({ text, n, d }) => {
        fc.pre(text.length < 1500 && String(n * d).length < 800)
        assert.isTrue(await equal(text, `\\frac{${n}}{${d}}`))
        assert.isFalse(await equal(text, `\\frac{${n + 1n}}{${d}}`))
        assert.isFalse(await equal(text, `\\frac{${n}}{${d}}+10^{-200}`))
      }),
      { numRuns: 500 }
    )
  })

  it("never throws and never rejects, whatever the text", () =>
    fc.assert(
      fc.asyncProperty(
        fc.oneof(
          fc.string({ unit: "binary", maxLength: 200 }),
          fc.string({ unit: fc.constantFrom(..."0123456789.,+-*/^_(){}[]|!$%&;:=<>\\ xyei√π½²"), maxLength: 40 }),
          fc
            .array(
              fc.constantFrom(
                "\\frac",
                "{",
                "}",
                "\\sqrt",
                "^",
                "1",
                "x",
                "\\text",
                "(",
                ")",
                ",",
                "\\pm",
                "=",
                "\\le"
              ),
              {
                maxLength: 20
              }
            )
            .map((parts) => parts.join(""))
        ),
        async (text) => {
          const verdict = await equivalent(text, "12345678901/3")
          assert.notStrictEqual(verdict._tag, "Equal")
          assert.isFalse(verdict._tag === "Undecided", JSON.stringify(verdict))
        }
      ),
      { numRuns: 2000 }
    ))
})
