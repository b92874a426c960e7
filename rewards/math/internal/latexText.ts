/**
 * Characters that mean the same, made the same, and an answer cut into tokens. Linear in the text, which is bounded first.
 *
 * Digits: ASCII, and the full-width and mathematical forms of them. A digit of any other script is no digit here, and a
 * superscript is an exponent: what merely looks like the right number is not read as it.
 */
import { decimal, TooLarge, type Rational } from "./rational.ts"

/** Not an answer this module reads. `library`: one that the library may. */
export class Unreadable extends Error {
  readonly library: boolean
  constructor(message: string, library = false) {
    super(message)
    this.library = library
  }
}

/** Characters of an answer: what is longer is none. */
export const maxLength = 2000
/** Brackets within brackets. */
export const maxDepth = 50

const superscripts = "⁰¹²³⁴⁵⁶⁷⁸⁹"
const vulgar: Readonly<Record<string, string>> = {
  "½": "1/2",
  "⅓": "1/3",
  "⅔": "2/3",
  "¼": "1/4",
  "¾": "3/4",
  "⅕": "1/5",
  "⅖": "2/5",
  "⅗": "3/5",
  "⅘": "4/5",
  "⅙": "1/6",
  "⅚": "5/6",
  "⅛": "1/8",
  "⅜": "3/8",
  "⅝": "5/8",
  "⅞": "7/8"
}
const same: Readonly<Record<string, string>> = {
  "−": "-",
  "–": "-",
  "﹣": "-",
  "－": "-",
  "＋": "+",
  "×": "*",
  "·": "*",
  "⋅": "*",
  "∙": "*",
  "÷": "/",
  "∕": "/",
  "⁄": "/",
  "≤": "<=",
  "⩽": "<=",
  "≥": ">=",
  "⩾": ">=",
  "≠": "!=",
  "∞": "\\infty ",
  π: "\\pi ",
  "√": "\\sqrt ",
  "∪": "\\cup ",
  "∈": "\\in ",
  "≈": "\\approx ",
  "±": "\\pm ",
  "°": "^\\circ ",
  "％": "%",
  "（": "(",
  "）": ")",
  "，": ",",
  "．": ".",
  "＝": "=",
  "＄": "$",
  θ: "\\theta ",
  α: "\\alpha ",
  β: "\\beta ",
  λ: "\\lambda ",
  φ: "\\phi "
}

/** Look-alikes of ASCII that are the same character by Unicode's own account, and spaces of every width. */
export const plain = (text: string): string =>
  // oxlint-disable-next-line no-control-regex
  text.replace(/[^\x00-\x7f]/gu, (character) => {
    const code = character.codePointAt(0)!
    if (code >= 0xff10 && code <= 0xff19) return String(code - 0xff10)
    if (code >= 0x1d7ce && code <= 0x1d7ff) return String((code - 0x1d7ce) % 10)
    if (/\p{Zs}/u.test(character)) return " "
    return Object.hasOwn(same, character) ? same[character]! : character
  })

/** The same with exponents and fractions of one character written out. */
const written = (text: string): string =>
  plain(text)
    .replace(
      /[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+/gu,
      (run) => `^{${[...run].map((c) => (c === "⁻" ? "-" : c === "⁺" ? "" : superscripts.indexOf(c))).join("")}}`
    )
    .replace(/[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]/gu, (character) => ` ${vulgar[character]!} `)

export type Token = (
  | { readonly t: "number"; readonly value: Rational; readonly whole: boolean }
  /** A symbol: a letter, or a Greek letter's command. */
  | { readonly t: "name"; readonly v: string }
  /** A function or a constant. */
  | { readonly t: "call"; readonly v: string }
  | { readonly t: "word"; readonly v: string }
  | { readonly t: "begin" | "end"; readonly v: string }
  | { readonly t: "op"; readonly v: string }
) & { readonly space: boolean }

const calls = new Set(
  "sqrt sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log lg exp abs frac binom pi infty pm mp floor ceil".split(
    " "
  )
)
const aliases: Readonly<Record<string, string>> = {
  dfrac: "frac",
  tfrac: "frac",
  cfrac: "frac",
  dbinom: "binom",
  tbinom: "binom",
  asin: "arcsin",
  acos: "arccos",
  atan: "arctan",
  infinity: "infty",
  inf: "infty",
  oo: "infty"
}
const operators: Readonly<Record<string, string>> = {
  cdot: "*",
  times: "*",
  ast: "*",
  div: "/",
  le: "<=",
  leq: "<=",
  leqslant: "<=",
  ge: ">=",
  geq: ">=",
  geqslant: ">=",
  ne: "!=",
  neq: "!=",
  lt: "<",
  gt: ">",
  in: "in",
  cup: "cup",
  circ: "deg",
  degree: "deg",
  lvert: "|",
  rvert: "|",
  vert: "|",
  lbrace: "\\{",
  rbrace: "\\}",
  langle: "(",
  rangle: ")",
  lfloor: "lfloor",
  rfloor: "rfloor",
  lceil: "lceil",
  rceil: "rceil",
  overline: "overline",
  lor: "or",
  vee: "or",
  land: "and",
  colon: ":",
  approx: "approx",
  simeq: "approx"
}
const greek = new Set(
  (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta kappa lambda mu nu xi rho sigma tau phi varphi chi psi omega " +
    "Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell"
  ).split(" ")
)
const silent = new Set(
  "left right displaystyle textstyle limits quad qquad big Big bigg Bigg bigl bigr Bigl Bigr".split(" ")
)
const texts = new Set(
  "text textnormal textbf textit textrm textsf mbox mathrm mathbf mathit mathsf operatorname rm hbox".split(" ")
)
/** What the library reads and this module does not. */
const heavy = new Set("sum prod int lim iint oint".split(" "))
/** Letters together that are no product: what things are counted in. */
const units = new Set(
  "cm mm km kg mg ml mL lb lbs oz ft hr hrs min mins mph kph km mi sec secs deg rad USD EUR GBP Hz kHz MHz kW kJ cal kcal pm am".split(
    " "
  )
)

export const tokenize = (source: string): ReadonlyArray<Token> => {
  if (source.length > maxLength) throw new TooLarge(`longer than ${maxLength} characters`)
  const latex = source.includes("\\")
  const text = written(source)
    .replace(/(?<=\d)(?:\{,\}|,?\\[,!;:]\s?|,\{\})(?=\d{3}(?!\d))/g, "")
    .replace(/\\[dt]?frac\s*(\d)\s*(?=\d|\{)/g, "\\frac{$1}")
    .replace(/(\\[dt]?frac\s*\{[^{}]*\})\s*(\d)/g, "$1{$2}")
  const tokens: Array<Token> = []
  let depth = 0
  let nested = 0
  const push = (token: Record<string, unknown>, space: boolean): void => {
    tokens.push({ ...token, space } as Token)
  }
  let space = false
  let index = 0
  /** Letters of plain text. */
  const letters = (run: string, prose: boolean): void => {
    const lower = run.toLowerCase()
    const call = aliases[lower] ?? lower
    if (lower === "and" || lower === "or") push({ t: "op", v: lower }, space)
    else if (prose) push({ t: "word", v: run }, space)
    else if (calls.has(call) && run.length > 1) push({ t: "call", v: call }, space)
    else if (run.length === 1) push({ t: "name", v: run }, space)
    else if (run.length > 3 || units.has(run)) push({ t: "word", v: run }, space)
    else for (const letter of run) push({ t: "name", v: letter }, space)
  }
  while (index < text.length) {
    const rest = text[index]!
    if (/\s|~/.test(rest)) {
      space = true
      index++
      continue
    }
    const start = index
    if (/[0-9.]/.test(rest)) {
      // within brackets a comma parts, outside it may group
      const pattern = nested === 0 ? /(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+)?/y : /\d*(?:\.\d+)?/y
      pattern.lastIndex = index
      let digits = pattern.exec(text)![0]
      if (digits === "") {
        if (rest !== ".") throw new Unreadable("a number that is none")
        push({ t: "op", v: "." }, space)
        index++
      } else {
        index += digits.length
        const whole = !digits.includes(".")
        digits = digits.replaceAll(",", "")
        const repeat = /\.\d*$|^\d*$/.test(digits) ? /\.?\\overline\s*\{(\d+)\}/y : undefined
        let repeating = ""
        if (repeat !== undefined) {
          repeat.lastIndex = index
          const found = repeat.exec(text)
          if (found !== null && (!whole || found[0].startsWith("."))) {
            repeating = found[1]!
            index += found[0].length
          }
        }
        let exponent = 0
        const scientific = latex ? /[E][+-]?\d+(?![\d.A-Za-z])/y : /[eE][+-]?\d+(?![\d.A-Za-z])/y
        scientific.lastIndex = index
        const found = scientific.exec(text)
        if (found !== null) {
          exponent = Number(found[0].slice(1))
          index += found[0].length
        }
        push(
          {
            t: "number",
            value: decimal(digits, exponent, repeating),
            whole: whole && repeating === "" && exponent === 0
          },
          space
        )
      }
    } else if (/[A-Za-z]/.test(rest)) {
      const run = /[A-Za-z]+/y
      run.lastIndex = index
      const found = run.exec(text)![0]
      index += found.length
      letters(found, false)
    } else if (rest === "\\") {
      const command = /\\([A-Za-z]+|[^A-Za-z])/y
      command.lastIndex = index
      const found = command.exec(text)
      if (found === null) throw new Unreadable("a command that is none")
      index += found[0].length
      const name = found[1]!
      const call = aliases[name] ?? name
      if (silent.has(name) || /^[,;:! ]$/.test(name)) {
        space = true
        if (name === "left" || name === "right") if (text[index] === ".") index++
        continue
      }
      if (texts.has(name)) {
        const group = /\s*\{([^{}]*)\}/y
        group.lastIndex = index
        const content = group.exec(text)
        if (content === null) throw new Unreadable(`\\${name} without its text`)
        index += content[0].length
        if (/^\s*[A-Za-z]\s*$/.test(content[1]!) && name.startsWith("math")) letters(content[1]!.trim(), false)
        else {
          for (const part of content[1]!.split(/\s+|(?=[\^()/{},.])|(?<=[\^()/{},.])/)) {
            if (/^[A-Za-z]+$/.test(part)) {
              space = true
              letters(part, true)
            } else if (part !== "") {
              const inner = tokenize(part)
              for (const token of inner) tokens.push({ ...token, space: true })
            }
          }
        }
      } else if (name === "begin" || name === "end") {
        const group = /\{([a-zA-Z]{1,12})\*?\}/y
        group.lastIndex = index
        const content = group.exec(text)
        if (content === null) throw new Unreadable(`\\${name} of nothing`)
        index += content[0].length
        push({ t: name, v: content[1] }, space)
      } else if (calls.has(call)) push({ t: "call", v: call }, space)
      else if (name === "mathbb" || name === "mathcal") {
        /* the letter that follows stands for itself */
      } else if (greek.has(name)) push({ t: "name", v: name }, space)
      else if (Object.hasOwn(operators, name)) push({ t: "op", v: operators[name] }, space)
      else if (name === "{" || name === "}") {
        nested += name === "{" ? 1 : -1
        push({ t: "op", v: `\\${name}` }, space)
      } else if (name === "%" || name === "$" || name === "&") push({ t: "op", v: name }, space)
      else if (name === "\\") push({ t: "op", v: "\\\\" }, space)
      else if (name === "|") push({ t: "op", v: "||" }, space)
      else throw new Unreadable(`\\${name.slice(0, 20)}`, heavy.has(name))
    } else {
      const two = text.slice(index, index + 2)
      const v = two === "**" ? "^" : ["<=", ">=", "!=", "=="].includes(two) ? two.replace("==", "=") : rest
      index += two === "**" || ["<=", ">=", "!=", "=="].includes(two) ? 2 : 1
      if (!/^[-+*/^_()[\]{}|!=<>,;:%$€£&']$/.test(v) && v.length === 1)
        throw new Unreadable("a character of no meaning")
      if (v === "(" || v === "[") nested++
      else if (v === ")" || v === "]") nested--
      if (v === "{" && (tokens.length === 0 || nested > 0)) {
        const last = tokens.at(-1)
        if (last === undefined) nested++
      }
      push({ t: "op", v }, space)
    }
    if (index > start) space = false
    const last = tokens.at(-1)
    if (last?.t === "op") {
      if (["(", "[", "{", "\\{"].includes(last.v)) depth++
      else if ([")", "]", "}", "\\}"].includes(last.v)) depth--
      if (depth > maxDepth) throw new TooLarge(`brackets nested deeper than ${maxDepth}`)
    }
  }
  return tokens
}
