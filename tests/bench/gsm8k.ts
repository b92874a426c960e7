/**
 * GSM8K: every training answer is extracted and equal to itself, in each of four forms that models write; of 1,000 answers
 * perturbed in seven ways none is. Fails otherwise.
 *
 *     node --conditions=quintain-source tests/bench/gsm8k.ts path/to/train.jsonl
 */
import { readFileSync } from "node:fs"
import { answer, type Extraction } from "../../rewards/math/Answer.ts"
import type { Scored, Verdict } from "../../src/score/Verifier.ts"
import { trajectory } from "../fixtures/trajectories.ts"

const path = process.argv[2]
if (path === undefined) {
  console.error("Name the file: node --conditions=quintain-source tests/bench/gsm8k.ts path/to/train.jsonl")
  process.exit(1)
}

interface Record {
  readonly question: string
  readonly answer: string
}
const records = readFileSync(path, "utf8")
  .split("\n")
  .filter((line) => line !== "")
  .map((line) => JSON.parse(line) as Record)

/** Mulberry32. */
let state = 20_251_122
const random = (): number => {
  state = (state + 0x6d2b79f5) | 0
  let mixed = Math.imul(state ^ (state >>> 15), state | 1)
  mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
}
const below = (count: number): number => Math.floor(random() * count)

/** Read apart from the verifier. */
const gold = ({ answer }: Record): number => Number(/####\s*(-?[\d,]+)\s*$/.exec(answer)![1]!.replaceAll(",", ""))
const grouped = (value: number): string => value.toLocaleString("en-US", { maximumFractionDigits: 10 })

const forms: Readonly<{ [name: string]: (record: Record, value: string) => string }> = {
  solution: ({ answer }, value) => `${answer.slice(0, answer.lastIndexOf("####"))}#### ${value}`,
  boxed: ({ answer }, value) => `${answer.slice(0, answer.lastIndexOf("####"))}So it is $\\boxed{${value}}$.`,
  phrase: ({ answer }, value) => `${answer.slice(0, answer.lastIndexOf("####"))}The answer is **${value}**.`,
  last: ({ answer }, value) => `${answer.slice(0, answer.lastIndexOf("####"))}That makes $${value} in total.`
}

/** Undefined where this record cannot be perturbed so. */
const perturbations: Readonly<{ [kind: string]: (value: number, record: Record) => number | undefined }> = {
  "digit changed": (value) => {
    const digits = [...String(Math.abs(value))]
    const at = below(digits.length)
    digits[at] = String((Number(digits[at]) + 1 + below(9)) % 10)
    return Math.sign(value || 1) * Number(digits.join(""))
  },
  "off by one": (value) => value + (random() < 0.5 ? 1 : -1),
  sign: (value) => -value,
  "times ten": (value) => value * 10,
  "digit dropped": (value) => {
    const digits = [...String(Math.abs(value))]
    if (digits.length < 2) return undefined
    digits.splice(below(digits.length), 1)
    return Math.sign(value) * Number(digits.join(""))
  },
  "decimal shifted": (value) => value / 10 ** (1 + below(2)),
  "another number of the solution": (_, { answer }) => {
    const numbers = [...answer.slice(0, answer.lastIndexOf("####")).matchAll(/(?<![\d.,])\d+(?:\.\d+)?(?![\d.,])/g)]
    return numbers.length === 0 ? undefined : Number(numbers[below(numbers.length)]![0])
  }
}

const scoreOf = async (compare: "number" | "math", form: string, record: Record, text: string): Promise<number> => {
  const verify = verifiers[form === "last" ? "last" : "marked"][compare]
  const task = { id: "gsm8k", prompt: record.question, data: record }
  const verdict = (await verify({ task, trajectory: trajectory(text), signal })) as Verdict
  if (typeof verdict === "number") return verdict
  return "score" in verdict ? (verdict as Scored).score : Number.NaN
}
// the solutions themselves say "the answer is" on the way: what has no mark is found by nothing else
const both = (extract: ReadonlyArray<Extraction>) => ({
  number: answer<Record>({ extract, compare: "number" }),
  math: answer<Record>({ extract, compare: "math" })
})
const verifiers = { marked: both(["boxed", "hash", "phrase"]), last: both(["boxed", "hash", "lastNumber"]) }
const { signal } = new AbortController()

let failures = 0
const print = (name: string, right: number, all: number): void => {
  if (right < all) failures += all - right
  console.log(`${name.padEnd(60)} ${right} / ${all}`)
}

for (const compare of ["number", "math"] as const) {
  for (const [name, form] of Object.entries(forms)) {
    let right = 0
    const start = performance.now()
    for (const record of records) {
      const value = gold(record)
      const written = random() < 0.5 ? String(value) : grouped(value)
      const score = await scoreOf(compare, name, record, form(record, written))
      if (score === 1) right++
      else console.log(`  refused: ${written} in ${JSON.stringify(record.answer.slice(-60))}, form ${name}`)
    }
    const each = (performance.now() - start) / records.length
    print(`${compare}, ${name}: equal to itself (${each.toFixed(3)} ms each)`, right, records.length)
  }
}

const kinds = Object.entries(perturbations)
const counts = new Map<string, { rejected: number; all: number }>(
  kinds.map(([kind]) => [kind, { rejected: 0, all: 0 }])
)
const formList = Object.entries(forms)
for (let made = 0; made < 1000;) {
  const record = records[below(records.length)]!
  const [kind, perturb] = kinds[made % kinds.length]!
  const value = gold(record)
  const wrong = perturb(value, record)
  if (wrong === undefined || wrong === value || Object.is(wrong, -0)) continue
  const [name, form] = formList[below(formList.length)]!
  const text = form(record, random() < 0.5 ? String(wrong) : grouped(wrong))
  const scores = [await scoreOf("number", name, record, text), await scoreOf("math", name, record, text)]
  const count = counts.get(kind)!
  count.all++
  if (scores.every((score) => score === 0)) count.rejected++
  else console.log(`  accepted or not judged: ${wrong} for ${value} (${kind}), scores ${scores.join(", ")}`)
  made++
}
for (const [kind, { rejected, all }] of counts) print(`rejected by number and by math: ${kind}`, rejected, all)
process.exit(failures > 0 ? 1 : 0)
