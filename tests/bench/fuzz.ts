/**
 * A fuzz run of what reads model text first: JSON, code and answers. Texts are made of the pieces that those readers look for,
 * repeated, cut, and put into one another, up to 60,000 characters.
 *
 *     npm run bench -- fuzz seconds=60 seed=1
 *
 * Fails when one throws, breaks its word (a document is one of the text's own, source is a part of the text), or needs
 * more than 10 microseconds a character beyond half a second; prints the slowest text of each.
 */
import assert from "node:assert/strict"
import { extractAnswer } from "../../rewards/index.ts"
import { continued, extractCode } from "../../rewards/internal/completion.ts"
import { readJson } from "../../rewards/internal/extractJson.ts"

const settings = new Map(process.argv.slice(2).map((text) => text.split("=") as [string, string]))
const seconds = Number(settings.get("seconds") ?? 60)
let state = Number(settings.get("seed") ?? 1)
if (!(seconds > 0 && Number.isInteger(state))) throw new RangeError("seconds is a number above 0, seed a whole number")

/** Mulberry32. */
const random = (): number => {
  state = (state + 0x6d2b79f5) | 0
  let bits = Math.imul(state ^ (state >>> 15), 1 | state)
  bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits
  return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32
}
const below = (n: number): number => Math.floor(random() * n)
const pick = <A>(of: ReadonlyArray<A>): A => of[below(of.length)]!

const words =
  '{"a": "a":1, [1,2] {} [] null true NaN -0 1e999 \\" \\u0000 \\ud800 // /* */ ``` ~~~ ```` return """ function_f( class_f ' +
  "<think> </think> \\boxed{ \\frac{1}{2} ####_ The_answer_is_ $ \\( \\) \\text{ (A) 1,000 ½ \u0301 哈 🙂 １２ −"
const pieces = [
  ..."{}[]\"'\\:,`~#$%&()<>/*-+.=_ \n\r\t0123456789eExabcn",
  ...words.split(" ").map((word) => word.replaceAll("_", " ")),
  "```js\n",
  "```python\n",
  "\n```\n",
  "def f(x):\n",
  "    ",
  "\u200b",
  "\u202e",
  "\u2028",
  "\ud800",
  "\udc00"
]

const text = (): string => {
  const kind = below(5)
  if (kind === 0) return Array.from({ length: below(30) }, () => pick(pieces)).join("")
  if (kind === 1) return Array.from({ length: below(2000) }, () => pick(pieces)).join("")
  if (kind === 2) {
    const unit = Array.from({ length: 1 + below(4) }, () => pick(pieces)).join("")
    return unit.repeat(below(Math.ceil(60_000 / unit.length)))
  }
  if (kind === 3) {
    const unit = Array.from({ length: 1 + below(4) }, () => pick(pieces)).join("")
    const before = text()
    return (before + unit.repeat(below(200)) + text()).slice(0, 60_000)
  }
  const whole = text()
  return whole.slice(below(whole.length), below(whole.length) + 1)
}

const readers: Readonly<Record<string, (text: string) => void>> = {
  json: (text) => {
    const found = readJson(text, 65_536)
    if ("value" in found) {
      const written = JSON.stringify(found.value)
      // not `found.value` itself: -0 is written as 0
      assert.deepEqual(readJson(written, 400_000, "strict"), { value: JSON.parse(written) as unknown })
    }
  },
  "json, strict": (text) => {
    const found = readJson(text, 65_536, "strict")
    if ("value" in found) assert.deepEqual(found.value, JSON.parse(text))
  },
  "json, lenient": (text) => void readJson(text, 65_536, "lenient"),
  code: (text) => {
    for (const entry of [undefined, "f"]) assert.ok(text.includes(extractCode(text, { entry }).source))
  },
  "code, continued": (text) => void continued("def f(x):\n", text, "f"),
  answer: (text) => {
    const found = extractAnswer(text, ["boxed", "hash", "phrase", "latex", "lastNumber", "choice", "whole"], "ABCD")
    assert.ok("fault" in found || typeof found.text === "string")
  }
}

const slowest = new Map<string, { milliseconds: number; length: number; text: string }>()
const end = performance.now() + seconds * 1000
let count = 0
let failures = 0
for (; performance.now() < end; count++) {
  const one = text()
  for (const [name, read] of Object.entries(readers)) {
    const started = performance.now()
    try {
      read(one)
    } catch (fault) {
      failures++
      console.log(`${name} broke on ${JSON.stringify(one.slice(0, 300))}\n`, fault)
    }
    const milliseconds = performance.now() - started
    if (milliseconds > 500 + one.length / 100) {
      failures++
      console.log(
        `${name} took ${milliseconds.toFixed(0)} ms for ${JSON.stringify(one.slice(0, 300))}, ${one.length} characters`
      )
    }
    if (milliseconds > (slowest.get(name)?.milliseconds ?? 0))
      slowest.set(name, { milliseconds, length: one.length, text: JSON.stringify(one.slice(0, 40)) })
  }
  if (failures >= 20) break
}
console.table(Object.fromEntries(slowest))
console.log(`${count} texts, ${failures} failures`)
process.exitCode = failures === 0 ? 0 : 1
