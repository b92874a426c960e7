/**
 * Exact algebra: quotients of polynomials over the rationals in symbols, pi, e, i, roots of primes, logarithms of primes
 * and exponentials, with whatever else occurs (sin x, a nested root) as an indeterminate of its own. Two that multiply
 * crosswise to the same polynomial are equal, with no tolerance anywhere. Two that do not are different, unless one holds
 * an indeterminate that may be related to the rest: then they are undecided, and numbers have to tell.
 *
 * Products of roots of distinct primes with exponents in [0, 1) are linearly independent over the rationals
 * (A. S. Besicovitch, "On the linear independence of fractional powers of integers", J. London Math. Soc. 15, 1940).
 * That pi, e and logarithms of primes are independent is conjectured; were it false, an equality would be missed.
 */
import type { Expression } from "./expression.ts"
import { constant, related } from "./polynomial.ts"
import { logarithm, pow } from "./power.ts"
import { asRational, type Exact, Field, indeterminate, key, rational } from "./quotient.ts"
import * as Q from "./rational.ts"
import { NonFinite, TooLarge } from "./rational.ts"
import { sine } from "./trigonometry.ts"

export type { Exact } from "./quotient.ts"

/** The algebra of one comparison, with its share of work. */
export const algebra = () => {
  const field = new Field()
  return {
    /** Throws `TooLarge` and `NonFinite`. */
    of: (node: Expression): Exact => exact(field, node),
    compare: (a: Exact, b: Exact) => compare(field, a, b),
    proportional: (a: Exact, b: Exact): boolean => proportional(field, a, b),
    rational: asRational,
    sub: (a: Exact, b: Exact): Exact => field.add(a, b, -1n)
  }
}

const half = Q.ratio(1n, 2n)

const exact = (field: Field, node: Expression): Exact => {
  const of = (part: Expression): Exact => exact(field, part)
  switch (node.op) {
    case "number":
      return rational(node.value)
    case "symbol":
      return indeterminate(`x:${node.name}`)
    case "constant":
      return indeterminate(`c:${node.name}`)
    case "infinity":
      throw new NonFinite("infinity")
    case "pm":
      throw new TooLarge("several signs")
    case "add":
      return node.args.map(of).reduce((sum, arg) => field.add(sum, arg))
    case "mul":
      return node.args.map(of).reduce((product, arg) => field.mul(product, arg))
    case "neg":
      return field.neg(of(node.args[0]))
    case "div":
      return field.div(of(node.args[0]), of(node.args[1]))
    case "pow":
      return pow(field, of(node.args[0]), of(node.args[1]), true)
    case "root": {
      const order = asRational(of(node.args[1]))
      if (order === undefined || order.d !== 1n || order.n < 1n) throw new TooLarge("a root of that order")
      return pow(field, of(node.args[0]), rational(Q.div(Q.one, order)), true)
    }
    case "ln":
      return logarithm(field, of(node.args[0]))
    case "log":
      return field.div(logarithm(field, of(node.args[0])), logarithm(field, of(node.args[1])))
    case "abs": {
      const value = of(node.args[0])
      const own = asRational(value)
      if (own !== undefined) return rational(own.n < 0n ? Q.neg(own) : own)
      return indeterminate(`f:abs(${key(value)})`)
    }
    case "floor":
    case "ceil": {
      const value = of(node.args[0])
      const own = asRational(value)
      if (own === undefined) return indeterminate(`f:${node.op}(${key(value)})`)
      return rational(Q.integer(node.op === "floor" ? Q.floor(own) : -Q.floor(Q.neg(own))))
    }
    case "factorial": {
      const own = asRational(of(node.args[0]))
      if (own === undefined || own.d !== 1n) return indeterminate(`f:factorial(${key(of(node.args[0]))})`)
      if (own.n < 0n) throw new NonFinite("the factorial of a negative number")
      return rational(Q.integer(Q.factorial(own.n)))
    }
    case "binomial": {
      const [n, k] = node.args.map((arg) => asRational(of(arg)))
      if (n?.d !== 1n || k?.d !== 1n)
        return indeterminate(`f:binomial(${key(of(node.args[0]))},${key(of(node.args[1]))})`)
      return rational(Q.integer(Q.binomial(n.n, k.n)))
    }
    case "sin":
      return sine(field, of(node.args[0]), Q.zero, "sin")
    case "cos":
      return sine(field, of(node.args[0]), half, "cos")
    case "tan":
      return field.div(sine(field, of(node.args[0]), Q.zero, "sin"), sine(field, of(node.args[0]), half, "cos"))
    case "cot":
      return field.div(sine(field, of(node.args[0]), half, "cos"), sine(field, of(node.args[0]), Q.zero, "sin"))
    case "sec":
      return field.div(rational(Q.one), sine(field, of(node.args[0]), half, "cos"))
    case "csc":
      return field.div(rational(Q.one), sine(field, of(node.args[0]), Q.zero, "sin"))
    default:
      return indeterminate(`f:${node.op}(${key(of(node.args[0]))})`)
  }
}

/** `undecided`: not the same by algebra, and no reason to say that they differ. */
const compare = ({ ring }: Field, a: Exact, b: Exact): "equal" | "different" | "undecided" => {
  const difference = ring.plus(ring.times(a.over, b.under), ring.times(b.over, a.under), -1n)
  // a denominator that is zero in disguise makes everything equal
  if (difference.size === 0) return related(a.under) || related(b.under) ? "undecided" : "equal"
  return related(difference) ? "undecided" : "different"
}

/** Whether one is the other times a number other than zero. */
const proportional = ({ ring }: Field, a: Exact, b: Exact): boolean => {
  if (a.over.size === 0 || b.over.size === 0) return a.over.size === b.over.size
  const left = ring.times(a.over, b.under)
  const right = ring.times(b.over, a.under)
  if (left.size !== right.size || related(left) || related(right)) return false
  const [name, first] = left.entries().next().value!
  const other = right.get(name)
  if (other === undefined) return false
  const factor = Q.div(first.by, other.by)
  return ring.plus(left, ring.times(right, constant(factor)), -1n).size === 0
}
