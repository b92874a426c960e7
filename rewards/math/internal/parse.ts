/** Tokens to an answer: what stands at its top (a set, a tuple, an interval, an equation, a unit), then expressions. */
import type { Answer, Expression, Measured, Sign } from "./expression.ts"
import { closes, expression, is, isPercent, opens, type Tokens } from "./grammar.ts"
import { TooLarge } from "./rational.ts"
import { maxDepth, tokenize, Unreadable, type Token } from "./latexText.ts"

const signs: ReadonlySet<string> = new Set<Sign>(["=", "<", "<=", ">", ">=", "!=", "in"])
/** Words that change a number's value or take it back: never a unit. */
const meaning = new Set(
  (
    "percent percentage half halves third thirds quarter quarters fourth fourths fifth fifths sixth sixths seventh eighth eighths ninth tenth " +
    "tenths hundredth hundredths thousandth thousandths hundred hundreds thousand thousands million millions billion billions trillion " +
    "trillions dozen dozens score pair pairs couple squared cubed factorial times plus minus over point negative positive not no isn wrong " +
    "incorrect false true if unless except about approximately roughly nearly almost to than more less fewer greater least most between " +
    "either neither nor but maybe perhaps else other another root of by divided multiplied base power zero one two three four five six " +
    "seven eight nine ten eleven twelve twenty thirty forty fifty sixty seventy eighty ninety infinity infinite undefined k m b"
  ).split(" ")
)

/** Five twelfths are no five. */
const ordinal =
  /^(?:[a-z]+teen|eleven|twelf|(?:twen|thir|for|fif|six|seven|eigh|nine)tie|hundred|thousand|million|billion)ths?$/

const isUnitWord = (word: string): boolean => !meaning.has(word.toLowerCase()) && !ordinal.test(word.toLowerCase())

/** Positions of the tokens outside all brackets for which `test` holds. */
const outside = (tokens: Tokens, test: (token: Token) => boolean): Array<number> => {
  const found: Array<number> = []
  let depth = 0
  tokens.forEach((token, index) => {
    if (token.t === "begin" || (token.t === "op" && opens.has(token.v))) depth++
    else if (token.t === "end" || (token.t === "op" && closes.has(token.v))) depth--
    else if (depth === 0 && test(token)) found.push(index)
    if (depth < 0) throw new Unreadable("a bracket that was not opened")
  })
  if (depth !== 0) throw new Unreadable("a bracket that is not closed")
  return found
}

const split = (tokens: Tokens, at: ReadonlyArray<number>): Array<Tokens> => {
  const parts: Array<Tokens> = []
  let from = 0
  for (const index of [...at, tokens.length]) {
    parts.push(tokens.slice(from, index))
    from = index + 1
  }
  return parts
}

/** Reads an answer. `percent`: whether "%" divides by a hundred or is a unit. Throws {@link Unreadable} or `TooLarge`. */
export const parse = (source: string, percent: "value" | "unit" = "value"): Measured => {
  let tokens: Tokens = withoutDelimiters(tokenize(source))
  while (is(tokens[0], "=") || is(tokens[0], "approx")) tokens = tokens.slice(1)
  while (is(tokens.at(-1), ".") || is(tokens.at(-1), ",") || is(tokens.at(-1), ";")) tokens = tokens.slice(0, -1)
  if (percent === "unit" && tokens.length > 1 && isPercent(tokens.at(-1)!)) {
    return { answer: answer(tokens.slice(0, -1), 0), unit: "%" }
  }
  const { rest, unit } = withoutUnit(tokens)
  return { answer: answer(rest, 0), unit }
}

/** `$` around, not before. */
const withoutDelimiters = (tokens: Tokens): Tokens => {
  const dollars = tokens.filter((token) => is(token, "$")).length
  return dollars > 0 && dollars % 2 === 0 ? tokens.filter((token) => !is(token, "$")) : tokens
}

const withoutUnit = (tokens: Tokens): { readonly rest: Tokens; readonly unit: string } => {
  let end = tokens.length
  let unit = ""
  // within a function a degree is a number
  const applied = tokens.some(
    (token) => token.t === "call" && token.v !== "frac" && token.v !== "sqrt" && token.v !== "pi"
  )
  let words = 0
  for (;;) {
    const last = tokens[end - 1]
    if (last === undefined) break
    if (last.t === "word" && isUnitWord(last.v) && words++ < 4) unit = `${canonicalUnit(last.v)} ${unit}`
    else if (!applied && is(last, "deg") && is(tokens[end - 2], "^")) {
      unit = `degree ${unit}`
      end--
    } else if (
      !applied &&
      is(last, "}") &&
      is(tokens[end - 2], "deg") &&
      is(tokens[end - 3], "{") &&
      is(tokens[end - 4], "^")
    ) {
      unit = `degree ${unit}`
      end -= 3
    } else {
      // cm^2, cm^{2}, m/s
      const power = is(last, "}") ? tokens[end - 2] : last
      const skip = is(last, "}") ? (is(tokens[end - 3], "{") ? 3 : 0) : 1
      const before = tokens[end - skip - 2]
      if (power?.t === "number" && skip > 0 && is(tokens[end - skip - 1], "^") && before?.t === "word") {
        unit = `${canonicalUnit(before.v)}^${power.value.n} ${unit}`
        end -= skip + 1
      } else if (is(last, "/") && unit !== "" && tokens[end - 2]?.t === "word") unit = `/ ${unit}`
      else break
    }
    end--
  }
  let rest = tokens.slice(0, end)
  const money = rest.at(-1)
  if (rest.length > 1 && money?.t === "op" && ["$", "€", "£"].includes(money.v)) {
    rest = rest.slice(0, -1)
    unit = `${money.v} ${unit}`
  }
  if (rest.length === 0) return { rest: tokens, unit: "" }
  const first = rest[0]
  const sign = is(first, "-") ? 1 : 0
  const currency = rest[sign]
  if (currency?.t === "op" && ["$", "€", "£"].includes(currency.v)) {
    rest = rest.filter((_, index) => index !== sign)
    unit = `${currency.v} ${unit === `${currency.v} ` ? "" : unit}`
  }
  return { rest, unit: unit.trim() }
}

const canonicalUnit = (word: string): string => {
  const lower = word.toLowerCase()
  const known: Readonly<Record<string, string>> = {
    dollars: "$",
    dollar: "$",
    usd: "$",
    euros: "€",
    euro: "€",
    eur: "€",
    pounds: "pound",
    degrees: "degree",
    deg: "degree",
    centimeters: "cm",
    centimeter: "cm",
    meters: "meter",
    kilometers: "km",
    kilometer: "km",
    feet: "foot",
    ft: "foot",
    inches: "inch",
    hours: "hour",
    hr: "hour",
    hrs: "hour",
    minutes: "minute",
    min: "minute",
    mins: "minute",
    seconds: "second",
    sec: "second",
    secs: "second",
    mph: "mile per hour",
    kilograms: "kg",
    kilogram: "kg",
    sq: "square",
    lbs: "pound",
    lb: "pound"
  }
  if (Object.hasOwn(known, lower)) return known[lower]!
  return lower.length > 3 && lower.endsWith("s") ? lower.slice(0, -1) : lower
}

const answer = (tokens: Tokens, depth: number): Answer => {
  if (tokens.length === 0) throw new Unreadable("nothing")
  if (depth > maxDepth) throw new TooLarge(`nested deeper than ${maxDepth}`)
  const rounded = outside(tokens, (token) => is(token, "approx"))
  if (rounded.length > 0) {
    // what is exact comes first; rounded only where there is nothing else
    const [exact, ...rest] = split(tokens, rounded)
    if (!isName(exact!)) return answer(exact!, depth + 1)
    return answer(rest[0]!, depth + 1)
  }
  const parted = outside(tokens, (token) => is(token, ",") || is(token, ";") || is(token, "and") || is(token, "or"))
  const related = outside(tokens, (token) => token.t === "op" && signs.has(token.v))
  if (parted.length > 0) {
    // "1, 2, and 3": one separator
    const parts = split(tokens, parted).filter(
      (part, index, all) => part.length > 0 || index === 0 || index === all.length - 1
    )
    const named = parts.map((part) => (related.length > 0 ? sameName(parts[0]!, part) : part))
    return { kind: "list", items: named.map((part) => answer(part, depth + 1)) }
  }
  if (related.length > 0) {
    const sides = split(tokens, related)
    return {
      kind: "relation",
      sides: sides.map((side) => answer(side, depth + 1)),
      signs: related.map((index) => (tokens[index] as { v: Sign }).v),
      named: isName(sides[0]!)
    }
  }
  const union = outside(tokens, (token) => is(token, "cup"))
  if (union.length > 0) return { kind: "union", items: split(tokens, union).map((part) => answer(part, depth + 1)) }
  const first = tokens[0]!
  const last = tokens.at(-1)!
  if (first.t === "begin" && last.t === "end" && tokens.findIndex((token) => token.t === "end") === tokens.length - 1) {
    if (!/^(p|b|B|small)?matrix$|^array$/.test(first.v) || first.v !== last.v)
      throw new Unreadable(`\\begin{${first.v}}`)
    return matrix(tokens.slice(1, -1))
  }
  if (first.t === "op" && last.t === "op" && opens.has(first.v) && closes.has(last.v) && encloses(tokens)) {
    const inner = tokens.slice(1, -1)
    const commas = outside(inner, (token) => is(token, ",") || is(token, ";"))
    const set = first.v === "\\{" ? last.v === "\\}" : first.v === "{" && last.v === "}" && commas.length > 0
    if (set)
      return {
        kind: "set",
        items: inner.length === 0 ? [] : split(inner, commas).map((part) => answer(part, depth + 1))
      }
    const round = first.v === "(" || last.v === ")"
    const square = first.v === "[" || last.v === "]"
    if (commas.length === 1 && (square || round) && [first.v, last.v].every((v) => "()[]".includes(v))) {
      const [low, high] = split(inner, commas)
      const ends = [answer(low!, depth + 1), answer(high!, depth + 1)] as const
      if (ends[0].kind === "value" && ends[1].kind === "value") {
        // of two numbers in round brackets nobody can say whether they are an interval or a point
        return { kind: "interval", open: [first.v === "(", last.v === ")"], ends: [ends[0].value, ends[1].value] }
      }
    }
    if (commas.length > 0 && first.v === "(" && last.v === ")") {
      return { kind: "tuple", items: split(inner, commas).map((part) => answer(part, depth + 1)) }
    }
    if (first.v === "{" || (first.v === "(" && last.v === ")") || inner[0]?.t === "begin") {
      const own = answer(inner, depth + 1)
      if (own.kind !== "value") return own
    }
  }
  const value = expression(tokens)
  return { kind: "value", value }
}

/** "x = 1 or 2": the second stands for x as well. */
const sameName = (first: Tokens, part: Tokens): Tokens => {
  const equals = first.findIndex((token) => is(token, "="))
  if (equals < 0 || part === first) return part
  return part.some((token) => token.t === "op" && signs.has(token.v)) || !isName(first.slice(0, equals))
    ? part
    : [...first.slice(0, equals + 1), ...part]
}

const encloses = (tokens: Tokens): boolean => {
  let depth = 0
  for (let index = 0; index < tokens.length; index++) {
    const token = tokens[index]!
    if (token.t !== "op") continue
    if (opens.has(token.v)) depth++
    else if (closes.has(token.v) && --depth === 0) return index === tokens.length - 1
  }
  return false
}

/** A symbol, with a subscript or applied to symbols: what stands left of "=" to name what is right of it. */
const isName = (tokens: Tokens): boolean => {
  if (tokens[0]?.t !== "name") return false
  return (
    tokens
      .slice(1)
      .every(
        (token) => token.t === "name" || token.t === "number" || (token.t === "op" && "_{}()'".includes(token.v))
      ) &&
    (tokens.length === 1 ||
      is(tokens[1], "_") ||
      (is(tokens[1], "(") && is(tokens.at(-1), ")") && tokens.length < 6) ||
      is(tokens[1], "'"))
  )
}

const matrix = (tokens: Tokens): Answer => {
  let own = tokens
  // the column specification of an array
  if (is(own[0], "{")) own = own.slice(own.findIndex((token) => is(token, "}")) + 1)
  const rows = split(
    own,
    outside(own, (token) => is(token, "\\\\"))
  ).filter((row, index, all) => row.length > 0 || index < all.length - 1)
  return {
    kind: "matrix",
    rows: rows.map((row) =>
      split(
        row,
        outside(row, (token) => is(token, "&"))
      ).map((cell) => expression(cell))
    )
  }
}

/** Both values of an expression with one `pm`; the expression itself without. */
export const branches = (value: Expression): ReadonlyArray<Expression> => {
  const pick = (node: Expression, sign: 1 | -1): Expression => {
    if (node.op === "pm") {
      const inner = pick(node.args[0], sign)
      return sign === 1 ? inner : { op: "neg", args: [inner] }
    }
    if (!("args" in node)) return node
    return { ...node, args: node.args.map((arg) => pick(arg, sign)) } as Expression
  }
  const has = (node: Expression): boolean => node.op === "pm" || ("args" in node && node.args.some(has))
  return has(value) ? [pick(value, 1), pick(value, -1)] : [value]
}
