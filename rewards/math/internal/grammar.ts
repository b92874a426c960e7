/** One expression of an answer: recursive descent over tokens, every level of it counted. */
import type { Expression, Trig } from "./expression.ts"
import { div, integer, ratio, TooLarge } from "./rational.ts"
import { maxDepth, Unreadable, type Token } from "./latexText.ts"

export type Tokens = ReadonlyArray<Token>

export const opens = new Set(["(", "[", "{", "\\{", "lfloor", "lceil"])
export const closes = new Set([")", "]", "}", "\\}", "rfloor", "rceil"])
export const is = (token: Token | undefined, v: string): boolean => token?.t === "op" && token.v === v

export const isPercent = (token: Token): boolean =>
  is(token, "%") || (token.t === "word" && /^(?:percent|percentage|pct)$/i.test(token.v))

/** Recursive descent; every level of recursion is counted. */
class Parser {
  readonly tokens: Tokens
  at = 0
  #level = 0
  /** Within a pair of bars: the next one closes it. */
  #bars = false

  constructor(tokens: Tokens) {
    this.tokens = tokens
  }

  peek(): Token | undefined {
    return this.tokens[this.at]
  }
  expect(v: string): void {
    if (!is(this.peek(), v)) throw new Unreadable(`"${v}" is missing`)
    this.at++
  }
  deeper<A>(read: () => A): A {
    if (++this.#level > 4 * maxDepth) throw new TooLarge("nested too deeply")
    const value = read()
    this.#level--
    return value
  }

  sum(): Expression {
    return this.deeper(() => {
      const args: Array<Expression> = []
      for (;;) {
        let negative = false
        let both = false
        for (;;) {
          const token = this.peek()
          if (is(token, "-")) negative = !negative
          else if (token?.t === "call" && (token.v === "pm" || token.v === "mp")) both = true
          else if (!is(token, "+")) break
          this.at++
        }
        const value = this.product()
        const signed: Expression = negative ? { op: "neg", args: [value] } : value
        args.push(both ? { op: "pm", args: [value] } : signed)
        const next = this.peek()
        if (!(is(next, "+") || is(next, "-") || (next?.t === "call" && (next.v === "pm" || next.v === "mp")))) break
      }
      return args.length === 1 ? args[0]! : { op: "add", args }
    })
  }

  product(): Expression {
    let value = this.signed()
    for (;;) {
      const token = this.peek()
      if (is(token, "*")) {
        this.at++
        value = { op: "mul", args: [value, this.signed()] }
      } else if (is(token, "/") || is(token, ":")) {
        this.at++
        const below = this.peek()
        if (is(token, ":") && below?.t === "number" && below.value.n === 0n) throw new Unreadable("a time of day")
        value = { op: "div", args: [value, this.signed()] }
      } else if (this.startsFactor(token)) {
        if (token!.t === "number" && this.tokens[this.at - 1]?.t !== "op")
          throw new Unreadable("two numbers side by side")
        value = { op: "mul", args: [value, this.power()] }
      } else return value
    }
  }

  signed(): Expression {
    return this.deeper(() => {
      if (is(this.peek(), "-")) {
        this.at++
        return { op: "neg", args: [this.signed()] }
      }
      if (is(this.peek(), "+")) {
        this.at++
        return this.signed()
      }
      return this.power()
    })
  }

  startsFactor(token: Token | undefined): boolean {
    if (token === undefined) return false
    if (token.t === "op") return token.v !== "|" ? opens.has(token.v) : !this.#bars
    return token.t !== "call" || (token.v !== "pm" && token.v !== "mp")
      ? token.t !== "end" && token.t !== "begin"
      : false
  }

  power(): Expression {
    return this.deeper(() => {
      let value = this.postfix()
      if (is(this.peek(), "^")) {
        this.at++
        if (is(this.peek(), "deg") || (is(this.peek(), "{") && is(this.tokens[this.at + 1], "deg"))) {
          this.at += is(this.peek(), "{") ? 3 : 1
          return radians(value)
        }
        const exponent = this.signed()
        value = { op: "pow", args: [value, exponent] }
      }
      return value
    })
  }

  postfix(): Expression {
    let value = this.primary()
    for (;;) {
      if (is(this.peek(), "!")) {
        this.at++
        value = { op: "factorial", args: [value] }
      } else if (this.peek() !== undefined && isPercent(this.peek()!)) {
        this.at++
        value = { op: "div", args: [value, { op: "number", value: integer(100) }] }
      } else return value
    }
  }

  group(): Expression {
    if (is(this.peek(), "{")) {
      this.at++
      const value = this.sum()
      this.expect("}")
      return value
    }
    return this.deeper(() => this.postfix())
  }

  primary(): Expression {
    const token = this.peek()
    if (token === undefined) throw new Unreadable("it ends too early")
    this.at++
    switch (token.t) {
      case "number": {
        const value: Expression = { op: "number", value: token.value }
        const fraction = token.whole ? this.mixed() : undefined
        return fraction === undefined ? value : { op: "add", args: [value, fraction] }
      }
      case "name": {
        if (is(this.peek(), "_")) {
          this.at++
          return { op: "symbol", name: `${token.v}_${this.subscript()}` }
        }
        if (is(this.peek(), "'")) throw new Unreadable("a derivative")
        if (token.v === "e" || token.v === "i") return { op: "constant", name: token.v }
        return { op: "symbol", name: token.v }
      }
      case "call":
        return this.call(token.v)
      case "op":
        return this.bracketed(token.v)
      default:
        throw new Unreadable(`the word "${token.v.slice(0, 20)}"`)
    }
  }

  /** A proper fraction right after a whole number. */
  mixed(): Expression | undefined {
    const next = this.tokens.slice(this.at, this.at + 7)
    const [a, b, c] = next
    if (
      a?.t === "number" &&
      a.whole &&
      a.space &&
      is(b, "/") &&
      c?.t === "number" &&
      c.whole &&
      a.value.n < c.value.n
    ) {
      this.at += 3
      return { op: "number", value: div(a.value, c.value) }
    }
    if (a?.t !== "call" || a.v !== "frac") return undefined
    const [, open, n, close, open2, d, close2] = next
    if (!is(open, "{") || !is(close, "}") || !is(open2, "{") || !is(close2, "}")) return undefined
    if (n?.t !== "number" || d?.t !== "number" || !n.whole || !d.whole) return undefined
    if (n.value.n >= d.value.n) throw new Unreadable("a whole number before an improper fraction")
    this.at += 7
    return { op: "number", value: ratio(n.value.n, d.value.n) }
  }

  subscript(): string {
    const read = (): string => {
      const token = this.peek()
      this.at++
      if (token?.t === "name" || token?.t === "word") return token.v
      if (token?.t === "number" && token.whole) return String(token.value.n)
      throw new Unreadable("a subscript")
    }
    if (!is(this.peek(), "{")) return read()
    this.at++
    let name = ""
    while (!is(this.peek(), "}")) name += read()
    this.at++
    return name
  }

  bracketed(open: string): Expression {
    const close: Readonly<Record<string, string>> = { "(": ")", "[": "]", "{": "}", lfloor: "rfloor", lceil: "rceil" }
    if (open === "|") {
      if (this.#bars) throw new Unreadable("bars within this.#bars")
      this.#bars = true
      const value = this.sum()
      this.expect("|")
      this.#bars = false
      return { op: "abs", args: [value] }
    }
    const end = close[open]
    if (end === undefined) throw new Unreadable(`"${open}" out of place`)
    const outer = this.#bars
    this.#bars = false
    const value = this.sum()
    this.expect(end)
    this.#bars = outer
    if (open === "lfloor" || open === "lceil") return { op: open === "lfloor" ? "floor" : "ceil", args: [value] }
    return value
  }

  call(name: string): Expression {
    switch (name) {
      case "pi":
        return { op: "constant", name: "pi" }
      case "infty":
        return { op: "infinity" }
      case "frac":
        return { op: "div", args: [this.group(), this.group()] }
      case "binom":
        return { op: "binomial", args: [this.group(), this.group()] }
      case "sqrt": {
        let order: Expression = { op: "number", value: integer(2) }
        if (is(this.peek(), "[")) {
          this.at++
          order = this.sum()
          this.expect("]")
        }
        return { op: "root", args: [this.group(), order] }
      }
      case "abs":
        return { op: "abs", args: [this.group()] }
      case "floor":
      case "ceil":
        return { op: name, args: [this.group()] }
    }
    let base: Expression | undefined
    if ((name === "log" || name === "lg") && is(this.peek(), "_")) {
      this.at++
      base = this.group()
    }
    let exponent: Expression | undefined
    if (is(this.peek(), "^")) {
      this.at++
      exponent = is(this.peek(), "-") ? this.signed() : this.group()
      if (base === undefined && name === "log" && is(this.peek(), "_")) {
        this.at++
        base = this.group()
      }
    }
    const inverse = exponent?.op === "neg" && exponent.args[0].op === "number" && exponent.args[0].value.n === 1n
    const argument =
      is(this.peek(), "(") || is(this.peek(), "{") || is(this.peek(), "[")
        ? this.deeper(() => this.postfix())
        : this.juxtaposed()
    let value: Expression
    if (name === "exp") value = { op: "pow", args: [{ op: "constant", name: "e" }, argument] }
    else if (name === "ln") value = { op: "ln", args: [argument] }
    else if (name === "log" || name === "lg")
      value = { op: "log", args: [argument, base ?? { op: "number", value: integer(10) }] }
    else if (inverse) {
      if (!["sin", "cos", "tan"].includes(name)) throw new Unreadable(`the inverse of ${name}`)
      return { op: `arc${name}` as Trig, args: [argument] }
    } else value = { op: name as Trig, args: [argument] }
    return exponent === undefined ? value : { op: "pow", args: [value, exponent] }
  }

  /** The argument of a function without brackets: what is multiplied without a sign. */
  juxtaposed(): Expression {
    let value = this.signed()
    for (;;) {
      const token = this.peek()
      if (token === undefined || (token.t === "call" && token.v !== "pi" && token.v !== "sqrt" && token.v !== "frac"))
        return value
      if (is(token, "/") && this.tokens[this.at + 1]?.t === "number") {
        this.at++
        value = { op: "div", args: [value, this.power()] }
      } else if (this.startsFactor(token) && token.t !== "number" && !is(token, "("))
        value = { op: "mul", args: [value, this.power()] }
      else return value
    }
  }
}

/** One expression of all `tokens`. Throws `Unreadable` and `TooLarge`. */
export const expression = (tokens: Tokens): Expression => {
  const parser = new Parser(tokens)
  const value = parser.sum()
  if (parser.at < tokens.length) throw new Unreadable("more than one expression")
  return value
}

const radians = (value: Expression): Expression => ({
  op: "mul",
  args: [
    value,
    {
      op: "div",
      args: [
        { op: "constant", name: "pi" },
        { op: "number", value: integer(180) }
      ]
    }
  ]
})
