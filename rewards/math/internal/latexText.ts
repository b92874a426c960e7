/**
 * Characters that mean the same, made the same, and an answer cut into tokens. Linear in the text, which is bounded first.
 *
 * Digits: ASCII, and the full-width and mathematical forms of them. A digit of any other script is not a digit here, and a
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
/** Commands that the library reads and this module does not. */
const heavy = new Set("sum prod int lim iint oint".split(" "))
/** Letters together that are no product: what things are counted in. */
const units = new Set(
  "cm mm km kg mg ml mL lb lbs oz ft hr hrs min mins mph kph km mi sec secs deg rad USD EUR GBP Hz kHz MHz kW kJ cal kcal pm am".split(
    " "
  )
)

/** Splits text or LaTeX into tokens. Throws `Unreadable` and `TooLarge`. */
export const tokenize = (source: string): ReadonlyArray<Token> => {
  if (source.length > maxLength) throw new TooLarge(`longer than ${maxLength} characters`)
  const text = written(source)
    .replace(/(?<=\d)(?:\{,\}|,?\\[,!;:]\s?|,\{\})(?=\d{3}(?!\d))/g, "")
    .replace(/\\[dt]?frac\s*(\d)\s*(?=\d|\{)/g, "\\frac{$1}")
    .replace(/(\\[dt]?frac\s*\{[^{}]*\})\s*(\d)/g, "$1{$2}")
  return new Lexer(text, source.includes("\\")).run()
}

const isComparison = (two: string): boolean => ["<=", ">=", "!=", "=="].includes(two)

class Lexer {
  readonly #text: string
  /** LaTeX, in which an exponent of ten is written with a capital E. */
  readonly #latex: boolean
  readonly #tokens: Array<Token> = []
  #index = 0
  /** Brackets that are open. */
  #depth = 0
  /** Round and square brackets and sets that are open: a comma within them parts. */
  #nested = 0
  /** White space stood before the next token. */
  #space = false

  constructor(text: string, latex: boolean) {
    this.#text = text
    this.#latex = latex
  }

  run(): ReadonlyArray<Token> {
    while (this.#index < this.#text.length) {
      const next = this.#text[this.#index]!
      if (/\s|~/.test(next)) {
        this.#space = true
        this.#index++
        continue
      }
      if (next === "\\") {
        if (this.#command()) continue
      } else if (/[0-9.]/.test(next)) this.#number()
      else if (/[A-Za-z]/.test(next)) this.#letters(this.#match(/[A-Za-z]+/y)![0], false)
      else this.#operator(next)
      this.#space = false
      this.#countDepth()
    }
    return this.#tokens
  }

  #push(token: Record<string, unknown>): void {
    this.#tokens.push({ ...token, space: this.#space } as Token)
  }

  /** Matches a sticky pattern here, and goes on behind it. */
  #match(pattern: RegExp): RegExpExecArray | null {
    pattern.lastIndex = this.#index
    const found = pattern.exec(this.#text)
    if (found !== null) this.#index += found[0].length
    return found
  }

  /** Letters of plain text. */
  #letters(run: string, prose: boolean): void {
    const lower = run.toLowerCase()
    const call = aliases[lower] ?? lower
    if (lower === "and" || lower === "or") this.#push({ t: "op", v: lower })
    else if (prose) this.#push({ t: "word", v: run })
    else if (calls.has(call) && run.length > 1) this.#push({ t: "call", v: call })
    else if (run.length === 1) this.#push({ t: "name", v: run })
    else if (run.length > 3 || units.has(run)) this.#push({ t: "word", v: run })
    else for (const letter of run) this.#push({ t: "name", v: letter })
  }

  #number(): void {
    // within brackets a comma parts, outside it may group
    const pattern = this.#nested === 0 ? /(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+)?/y : /\d*(?:\.\d+)?/y
    const written = this.#match(pattern)![0]
    if (written === "") {
      if (this.#text[this.#index] !== ".") throw new Unreadable("a number that is none")
      this.#push({ t: "op", v: "." })
      this.#index++
      return
    }
    const whole = !written.includes(".")
    const digits = written.replaceAll(",", "")
    const repeating = this.#repeating(digits, whole)
    const scientific = this.#match(this.#latex ? /[E][+-]?\d+(?![\d.A-Za-z])/y : /[eE][+-]?\d+(?![\d.A-Za-z])/y)
    const exponent = scientific === null ? 0 : Number(scientific[0].slice(1))
    this.#push({
      t: "number",
      value: decimal(digits, exponent, repeating),
      whole: whole && repeating === "" && exponent === 0
    })
  }

  /** Digits under a bar, which repeat. */
  #repeating(digits: string, whole: boolean): string {
    if (!/\.\d*$|^\d*$/.test(digits)) return ""
    const start = this.#index
    const found = this.#match(/\.?\\overline\s*\{(\d+)\}/y)
    if (found === null) return ""
    if (!whole || found[0].startsWith(".")) return found[1]!
    this.#index = start
    return ""
  }

  /** Whether nothing but space came of it. */
  #command(): boolean {
    const found = this.#match(/\\([A-Za-z]+|[^A-Za-z])/y)
    if (found === null) throw new Unreadable("a command that is none")
    const name = found[1]!
    const call = aliases[name] ?? name
    if (silent.has(name) || /^[,;:! ]$/.test(name)) {
      this.#space = true
      if ((name === "left" || name === "right") && this.#text[this.#index] === ".") this.#index++
      return true
    }
    if (texts.has(name)) this.#textGroup(name)
    else if (name === "begin" || name === "end") {
      const content = this.#match(/\{([a-zA-Z]{1,12})\*?\}/y)
      if (content === null) throw new Unreadable(`\\${name} of nothing`)
      this.#push({ t: name, v: content[1] })
    } else if (calls.has(call)) this.#push({ t: "call", v: call })
    else if (name === "mathbb" || name === "mathcal") {
      /* the letter that follows stands for itself */
    } else if (greek.has(name)) this.#push({ t: "name", v: name })
    else if (Object.hasOwn(operators, name)) this.#push({ t: "op", v: operators[name] })
    else if (name === "{" || name === "}") {
      this.#nested += name === "{" ? 1 : -1
      this.#push({ t: "op", v: `\\${name}` })
    } else if (name === "%" || name === "$" || name === "&") this.#push({ t: "op", v: name })
    else if (name === "\\") this.#push({ t: "op", v: "\\\\" })
    else if (name === "|") this.#push({ t: "op", v: "||" })
    else throw new Unreadable(`\\${name.slice(0, 20)}`, heavy.has(name))
    return false
  }

  /** The text of `\text{...}` and its like. */
  #textGroup(name: string): void {
    const content = this.#match(/\s*\{([^{}]*)\}/y)
    if (content === null) throw new Unreadable(`\\${name} without its text`)
    if (/^\s*[A-Za-z]\s*$/.test(content[1]!) && name.startsWith("math")) {
      this.#letters(content[1]!.trim(), false)
      return
    }
    for (const part of content[1]!.split(/\s+|(?=[\^()/{},.])|(?<=[\^()/{},.])/)) {
      if (/^[A-Za-z]+$/.test(part)) {
        this.#space = true
        this.#letters(part, true)
      } else if (part !== "") {
        for (const token of tokenize(part)) this.#tokens.push({ ...token, space: true })
      }
    }
  }

  #operator(next: string): void {
    const two = this.#text.slice(this.#index, this.#index + 2)
    const double = two === "**" || isComparison(two)
    const v = two === "**" ? "^" : double ? two.replace("==", "=") : next
    this.#index += double ? 2 : 1
    if (!/^[-+*/^_()[\]{}|!=<>,;:%$€£&']$/.test(v) && v.length === 1) throw new Unreadable("a character of no meaning")
    if (v === "(" || v === "[" || (v === "{" && this.#tokens.length === 0)) this.#nested++
    else if (v === ")" || v === "]") this.#nested--
    this.#push({ t: "op", v })
  }

  #countDepth(): void {
    const last = this.#tokens.at(-1)
    if (last?.t !== "op") return
    if (["(", "[", "{", "\\{"].includes(last.v)) this.#depth++
    else if ([")", "]", "}", "\\}"].includes(last.v)) this.#depth--
    if (this.#depth > maxDepth) throw new TooLarge(`brackets nested deeper than ${maxDepth}`)
  }
}
