/** Questions of `toolCaller`, their right answers, and the imperfect answers of a careless demonstrator. */
import type * as Draw from "./Draw.ts"

/** `12+7=?` requests a call of the tool. `f(x)=3x+14` requests that function's source, to be registered with `def`. */
export type Question =
  | { readonly tool: "add" | "sub" | "mul"; readonly a: number; readonly b: number }
  | { readonly tool: "def"; readonly factor: number; readonly offset: number }

export const TOOLS = ["add", "sub", "mul", "def"] as const

const SIGN = { add: "+", sub: "-", mul: "*" } as const

export const prompt = (question: Question): string =>
  question.tool === "def"
    ? `f(x)=${question.factor}x${signed(question.offset)}`
    : `${question.a}${SIGN[question.tool]}${question.b}=?`

/**
 * Returns the call that answers the question, as the demonstrations and the exact match write it: no spaces, this order
 * of keys.
 */
export const gold = (question: Question): string =>
  question.tool === "def"
    ? define(`x=>${question.factor}*x${signed(question.offset)}`)
    : call(question.tool, question.a, question.b)

/** Computes the tool's result for its arguments. */
export const apply = (tool: "add" | "sub" | "mul", a: number, b: number): number =>
  tool === "add" ? a + b : tool === "sub" ? a - b : a * b

/** Makes the inputs on which a function's source is tested, and the expected results. */
export const cases = (
  question: Extract<Question, { tool: "def" }>
): ReadonlyArray<{ readonly args: ReadonlyArray<number>; readonly expect: number }> =>
  [0, 1, 2, 10, -3].map((x) => ({ args: [x], expect: question.factor * x + question.offset }))

/** Operands have two digits, so that the text to copy always has the same position: small models learn that sooner. */
export const MIN = 10

/**
 * Draws a question of the given tool. Operands and the sizes of offsets run from {@link MIN} to `max`, factors from 2
 * to 9.
 */
export const draw = (from: Draw.Draw, tool: Question["tool"], max: number): Question =>
  tool === "def"
    ? { tool, factor: from.between(2, 9), offset: from.between(MIN, max) * (from.chance(0.5) ? 1 : -1) }
    : { tool, a: from.between(MIN, max), b: from.between(MIN, max) }

/**
 * Makes a wrong answer. Each tool except `add` has a habit of its own, which makes up most of its mistakes, so a model
 * that imitates learns the habit. The rest are slips of every kind. The verifiers catch every mistake.
 *
 * | question | habit | caught by |
 * | --- | --- | --- |
 * | `19-15=?` | operands in the wrong order: `sub(15, 19)` | replay |
 * | `19*15=?` | adds instead | replay |
 * | `f(x)=3x+14` | copies the formula, which is not JavaScript: `x=>3x+14` | unit tests |
 */
export const mistake = (question: Question, from: Draw.Draw): string => {
  for (;;) {
    const answer = from.chance(HABIT) ? habit(question) : slip(question, from)
    if (answer !== undefined) return answer
  }
}

/** Share of habits among the mistakes, for the tools that have one. */
const HABIT = 0.75

const habit = (question: Question): string | undefined => {
  switch (question.tool) {
    case "add":
      return undefined
    case "sub":
      return wrongCall(question, "sub", question.b, question.a)
    case "mul":
      return wrongCall(question, "add", question.a, question.b)
    case "def":
      return define(`x=>${question.factor}x${signed(question.offset)}`)
  }
}

const slip = (question: Question, from: Draw.Draw): string | undefined => {
  switch (from.pick(["digit", "quotes", "brace", "tool"])) {
    case "digit": {
      const wrong = from.between(MIN, 99)
      if (question.tool === "def") {
        return wrong === Math.abs(question.offset) ? undefined : gold({ ...question, offset: wrong })
      }
      return from.chance(0.5)
        ? wrongCall(question, question.tool, wrong, question.b)
        : wrongCall(question, question.tool, question.a, wrong)
    }
    // Numbers as strings, or an invalid function: the schema and the unit tests reject them.
    case "quotes":
      return question.tool === "def"
        ? define(`${question.factor}*x${signed(question.offset)}`)
        : call(question.tool, `"${question.a}"`, `"${question.b}"`)
    case "brace":
      return gold(question).slice(0, -1)
    case "tool":
      return question.tool === "def"
        ? call("mul", question.factor, Math.abs(question.offset))
        : wrongCall(question, from.pick(["add", "sub", "mul"]), question.a, question.b)
  }
}

/**
 * Makes a call whose result differs from the right one, or nothing: `sub(14, 14)` with its operands swapped is not a
 * mistake.
 */
const wrongCall = (
  question: Extract<Question, { a: number }>,
  tool: "add" | "sub" | "mul",
  a: number,
  b: number
): string | undefined =>
  apply(tool, a, b) === apply(question.tool, question.a, question.b) ? undefined : call(tool, a, b)

const call = (tool: string, a: number | string, b: number | string): string =>
  `{"name":"${tool}","arguments":{"a":${a},"b":${b}}}`

const define = (code: string): string => `{"name":"def","arguments":{"code":"${code}"}}`

const signed = (value: number): string => (value < 0 ? String(value) : `+${value}`)
