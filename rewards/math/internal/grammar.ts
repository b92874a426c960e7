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
export const expression = (tokens: Tokens): Expression => {
  let at = 0
  let level = 0
  const peek = (): Token | undefined => tokens[at]
  const expect = (v: string): void => {
    if (!is(peek(), v)) throw new Unreadable(`"${v}" is missing`)
    at++
  }
  const deeper = <A>(read: () => A): A => {
    if (++level > 4 * maxDepth) throw new TooLarge("nested too deeply")
    const value = read()
    level--
    return value
  }

  const sum = (): Expression =>
    deeper(() => {
      const args: Array<Expression> = []
      for (;;) {
        let negative = false
        let both = false
        for (;;) {
          const token = peek()
          if (is(token, "-")) negative = !negative
          else if (token?.t === "call" && (token.v === "pm" || token.v === "mp")) both = true
          else if (!is(token, "+")) break
          at++
        }
        const value = product()
        const signed: Expression = negative ? { op: "neg", args: [value] } : value
        args.push(both ? { op: "pm", args: [value] } : signed)
        const next = peek()
        if (!(is(next, "+") || is(next, "-") || (next?.t === "call" && (next.v === "pm" || next.v === "mp")))) break
      }
      return args.length === 1 ? args[0]! : { op: "add", args }
    })

  const product = (): Expression => {
    let value = signed()
    for (;;) {
      const token = peek()
      if (is(token, "*")) {
        at++
        value = { op: "mul", args: [value, signed()] }
      } else if (is(token, "/") || is(token, ":")) {
        at++
        const below = peek()
        if (is(token, ":") && below?.t === "number" && below.value.n === 0n) throw new Unreadable("a time of day")
        value = { op: "div", args: [value, signed()] }
      } else if (startsFactor(token)) {
        if (token!.t === "number" && tokens[at - 1]?.t !== "op") throw new Unreadable("two numbers side by side")
        value = { op: "mul", args: [value, power()] }
      } else return value
    }
  }

  const signed = (): Expression =>
    deeper(() => {
      if (is(peek(), "-")) {
        at++
        return { op: "neg", args: [signed()] }
      }
      if (is(peek(), "+")) {
        at++
        return signed()
      }
      return power()
    })

  const startsFactor = (token: Token | undefined): boolean => {
    if (token === undefined) return false
    if (token.t === "op") return token.v !== "|" ? opens.has(token.v) : !bars
    return token.t !== "call" || (token.v !== "pm" && token.v !== "mp")
      ? token.t !== "end" && token.t !== "begin"
      : false
  }

  const power = (): Expression =>
    deeper(() => {
      let value = postfix()
      if (is(peek(), "^")) {
        at++
        if (is(peek(), "deg") || (is(peek(), "{") && is(tokens[at + 1], "deg"))) {
          at += is(peek(), "{") ? 3 : 1
          return radians(value)
        }
        const exponent = signed()
        value = { op: "pow", args: [value, exponent] }
      }
      return value
    })

  const postfix = (): Expression => {
    let value = primary()
    for (;;) {
      if (is(peek(), "!")) {
        at++
        value = { op: "factorial", args: [value] }
      } else if (peek() !== undefined && isPercent(peek()!)) {
        at++
        value = { op: "div", args: [value, { op: "number", value: integer(100) }] }
      } else return value
    }
  }

  const group = (): Expression => {
    if (is(peek(), "{")) {
      at++
      const value = sum()
      expect("}")
      return value
    }
    return deeper(postfix)
  }

  let bars = false
  const primary = (): Expression => {
    const token = peek()
    if (token === undefined) throw new Unreadable("it ends too early")
    at++
    switch (token.t) {
      case "number": {
        const value: Expression = { op: "number", value: token.value }
        const fraction = token.whole ? mixed() : undefined
        return fraction === undefined ? value : { op: "add", args: [value, fraction] }
      }
      case "name": {
        if (is(peek(), "_")) {
          at++
          return { op: "symbol", name: `${token.v}_${subscript()}` }
        }
        if (is(peek(), "'")) throw new Unreadable("a derivative")
        if (token.v === "e" || token.v === "i") return { op: "constant", name: token.v }
        return { op: "symbol", name: token.v }
      }
      case "call":
        return call(token.v)
      case "op":
        return bracketed(token.v)
      default:
        throw new Unreadable(`the word "${token.v.slice(0, 20)}"`)
    }
  }

  /** A proper fraction right after a whole number. */
  const mixed = (): Expression | undefined => {
    const next = tokens.slice(at, at + 7)
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
      at += 3
      return { op: "number", value: div(a.value, c.value) }
    }
    if (a?.t !== "call" || a.v !== "frac") return undefined
    const [, open, n, close, open2, d, close2] = next
    if (!is(open, "{") || !is(close, "}") || !is(open2, "{") || !is(close2, "}")) return undefined
    if (n?.t !== "number" || d?.t !== "number" || !n.whole || !d.whole) return undefined
    if (n.value.n >= d.value.n) throw new Unreadable("a whole number before an improper fraction")
    at += 7
    return { op: "number", value: ratio(n.value.n, d.value.n) }
  }

  const subscript = (): string => {
    const read = (): string => {
      const token = peek()
      at++
      if (token?.t === "name" || token?.t === "word") return token.v
      if (token?.t === "number" && token.whole) return String(token.value.n)
      throw new Unreadable("a subscript")
    }
    if (!is(peek(), "{")) return read()
    at++
    let name = ""
    while (!is(peek(), "}")) name += read()
    at++
    return name
  }

  const bracketed = (open: string): Expression => {
    const close: Readonly<Record<string, string>> = { "(": ")", "[": "]", "{": "}", lfloor: "rfloor", lceil: "rceil" }
    if (open === "|") {
      if (bars) throw new Unreadable("bars within bars")
      bars = true
      const value = sum()
      expect("|")
      bars = false
      return { op: "abs", args: [value] }
    }
    const end = close[open]
    if (end === undefined) throw new Unreadable(`"${open}" out of place`)
    const outer = bars
    bars = false
    const value = sum()
    expect(end)
    bars = outer
    if (open === "lfloor" || open === "lceil") return { op: open === "lfloor" ? "floor" : "ceil", args: [value] }
    return value
  }

  const call = (name: string): Expression => {
    switch (name) {
      case "pi":
        return { op: "constant", name: "pi" }
      case "infty":
        return { op: "infinity" }
      case "frac":
        return { op: "div", args: [group(), group()] }
      case "binom":
        return { op: "binomial", args: [group(), group()] }
      case "sqrt": {
        let order: Expression = { op: "number", value: integer(2) }
        if (is(peek(), "[")) {
          at++
          order = sum()
          expect("]")
        }
        return { op: "root", args: [group(), order] }
      }
      case "abs":
        return { op: "abs", args: [group()] }
      case "floor":
      case "ceil":
        return { op: name, args: [group()] }
    }
    let base: Expression | undefined
    if ((name === "log" || name === "lg") && is(peek(), "_")) {
      at++
      base = group()
    }
    let exponent: Expression | undefined
    if (is(peek(), "^")) {
      at++
      exponent = is(peek(), "-") ? signed() : group()
      if (base === undefined && name === "log" && is(peek(), "_")) {
        at++
        base = group()
      }
    }
    const inverse = exponent?.op === "neg" && exponent.args[0].op === "number" && exponent.args[0].value.n === 1n
    const argument = is(peek(), "(") || is(peek(), "{") || is(peek(), "[") ? deeper(postfix) : juxtaposed()
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
  const juxtaposed = (): Expression => {
    let value = signed()
    for (;;) {
      const token = peek()
      if (token === undefined || (token.t === "call" && token.v !== "pi" && token.v !== "sqrt" && token.v !== "frac"))
        return value
      if (is(token, "/") && tokens[at + 1]?.t === "number") {
        at++
        value = { op: "div", args: [value, power()] }
      } else if (startsFactor(token) && token.t !== "number" && !is(token, "("))
        value = { op: "mul", args: [value, power()] }
      else return value
    }
  }

  const value = sum()
  if (at < tokens.length) throw new Unreadable("more than one expression")
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
