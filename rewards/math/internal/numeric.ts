/** Numbers for expressions: rough ones here, to say that two differ, and the library's, to a hundred digits, to say that they do not. */
import type { Expression } from "./expression.ts"
import * as Q from "./rational.ts"
import type { Rational } from "./rational.ts"

export const symbols = (node: Expression, found = new Set<string>()): Set<string> => {
  if (node.op === "symbol") found.add(node.name)
  else if ("args" in node) for (const arg of node.args) symbols(arg, found)
  return found
}

/** The symbols replaced by numbers. */
export const at = (node: Expression, values: ReadonlyMap<string, Rational>): Expression => {
  if (node.op === "symbol") return { op: "number", value: values.get(node.name) ?? Q.one }
  return "args" in node ? ({ ...node, args: node.args.map((arg) => at(arg, values)) } as Expression) : node
}

/**
 * Where expressions are compared: four points above zero, two with both signs, two far out. Denominators are primes, so that
 * no two symbols meet in a value or in a simple ratio of them.
 */
export const points = (names: ReadonlyArray<string>): ReadonlyArray<ReadonlyMap<string, Rational>> => {
  const primes = [101n, 103n, 107n, 109n, 113n, 127n, 131n, 137n, 139n, 149n, 151n, 157n]
  return [1n, 2n, 3n, 4n, 5n, 6n, 7n, 8n].map(
    (round) =>
      new Map(
        names.map((name, index) => {
          const prime = primes[index % primes.length]!
          const near = Q.ratio(round * 61n + BigInt(index) * 37n + 5n, prime + (round % 2n) * 60n)
          const value = round > 6n ? Q.add(near, Q.integer(3001n + 17n * BigInt(index))) : near
          return [name, round > 4n && (BigInt(index) + round) % 2n === 1n ? Q.neg(value) : value] as const
        })
      )
  )
}

const size = 1e6

/** In floating point; NaN where it is not real, not finite, or was larger on the way than can be trusted. */
export const rough = (node: Expression): number => {
  const bounded = (value: number): number => (Math.abs(value) <= size ? value : Number.NaN)
  switch (node.op) {
    case "number": {
      const value = Number((node.value.n * 1_000_000_000_000n) / node.value.d) / 1e12
      return bounded(value)
    }
    case "constant":
      return node.name === "pi" ? Math.PI : node.name === "e" ? Math.E : Number.NaN
    case "symbol":
    case "infinity":
    case "pm":
    case "binomial":
      return Number.NaN
  }
  const args = node.args.map(rough)
  const [x, y = 0] = args as [number, number?]
  switch (node.op) {
    case "add":
      return bounded(args.reduce((sum, arg) => sum + arg, 0))
    case "mul":
      return bounded(args.reduce((product, arg) => product * arg, 1))
    case "div":
      return Math.abs(y) < 1e-6 ? Number.NaN : bounded(x / y)
    case "pow":
      return x < 0 && !Number.isInteger(y) ? Number.NaN : bounded(x ** y)
    case "root":
      return x < 0 ? Number.NaN : bounded(x ** (1 / y))
    case "log":
      return Math.abs(y - 1) < 1e-6 ? Number.NaN : bounded(Math.log(x) / Math.log(y))
    case "neg":
      return -x
    case "ln":
      return x < 1e-6 ? Number.NaN : Math.log(x)
    case "abs":
      return Math.abs(x)
    case "sin":
    case "cos":
    case "sinh":
    case "cosh":
    case "tanh":
      return bounded(Math[node.op](x))
    case "arctan":
      return Math.atan(x)
    case "arcsin":
      return Math.asin(x)
    case "arccos":
      return Math.acos(x)
    default:
      return Number.NaN
  }
}

/** Plainly different: more apart than rounding explains. */
export const apart = (a: Expression, b: Expression): boolean => {
  const x = rough(a)
  const y = rough(b)
  return Math.abs(x - y) > 1e-5 * Math.max(1, Math.abs(x), Math.abs(y))
}

/** MathJSON, the library's own form. Every symbol has to be replaced before. */
export type MathJson = string | { readonly num: string } | ReadonlyArray<MathJson>

const heads: Readonly<Record<string, string>> = {
  add: "Add",
  mul: "Multiply",
  div: "Divide",
  pow: "Power",
  root: "Root",
  log: "Log",
  neg: "Negate",
  ln: "Ln",
  abs: "Abs",
  floor: "Floor",
  ceil: "Ceil",
  factorial: "Factorial",
  binomial: "Binomial",
  sin: "Sin",
  cos: "Cos",
  tan: "Tan",
  cot: "Cot",
  sec: "Sec",
  csc: "Csc",
  arcsin: "Arcsin",
  arccos: "Arccos",
  arctan: "Arctan",
  sinh: "Sinh",
  cosh: "Cosh",
  tanh: "Tanh"
}

export const mathJson = (node: Expression): MathJson => {
  switch (node.op) {
    case "number":
      return node.value.d === 1n
        ? { num: String(node.value.n) }
        : ["Rational", { num: String(node.value.n) }, { num: String(node.value.d) }]
    case "constant":
      return node.name === "pi" ? "Pi" : node.name === "e" ? "ExponentialE" : "ImaginaryUnit"
    case "symbol":
    case "infinity":
    case "pm":
      return "Undefined"
    default:
      return [heads[node.op]!, ...node.args.map(mathJson)]
  }
}

/** A value from the library: decimal digits. */
export interface Digits {
  readonly re: string
  readonly im: string
}

const read = (digits: string): Rational | undefined => {
  const found = /^([+-]?)(\d*\.?\d*)(?:[eE]([+-]?\d+))?$/.exec(digits)
  if (found === null || found[2] === "" || found[2] === ".") return undefined
  try {
    const value = Q.decimal(found[2]!, Number(found[3] ?? 0))
    return found[1] === "-" ? Q.neg(value) : value
  } catch {
    return undefined
  }
}

/** Relative, and far below what any two closed forms of an answer's length are apart by chance. */
const tolerance = Q.ratio(1n, 10n ** 75n)

const close = (a: Rational, b: Rational): boolean => {
  if (a.n === 0n || b.n === 0n) return a.n === b.n
  const size = (value: Rational) => (value.n < 0n ? Q.neg(value) : value)
  return Q.compare(size(Q.sub(a, b)), Q.mul(tolerance, size(a))) <= 0
}

/** `undefined`: nothing to compare here, as one of them is not real. */
export const agree = (a: Digits | null, b: Digits | null, complex: boolean): boolean | undefined => {
  if (a === null || b === null) return undefined
  const [are, aim, bre, bim] = [a.re, a.im, b.re, b.im].map(read)
  if (are === undefined || aim === undefined || bre === undefined || bim === undefined) return undefined
  if (!complex && (aim.n !== 0n || bim.n !== 0n)) return undefined
  return close(are, bre) && close(aim, bim)
}
