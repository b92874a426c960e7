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
import * as Q from "./rational.ts"
import { NonFinite, TooLarge, type Rational } from "./rational.ts"

/** Exponents by indeterminate. */
type Powers = ReadonlyMap<string, Rational>
interface Term {
  readonly powers: Powers
  readonly by: Rational
}
type Polynomial = ReadonlyMap<string, Term>

export interface Exact {
  readonly over: Polynomial
  readonly under: Polynomial
}

const maxTerms = 400
/** Products of terms in one comparison: some tens of milliseconds. */
const maxWork = 80_000

const keyOf = (powers: Powers): string =>
  [...powers]
    .map(([name, power]) => `${name}^${Q.text(power)}`)
    .toSorted()
    .join(" ")

const none: Powers = new Map()
const constant = (by: Rational): Polynomial => (by.n === 0n ? new Map() : new Map([["", { powers: none, by }]]))
const unit = constant(Q.one)
const rational = (by: Rational): Exact => ({ over: constant(by), under: unit })
const indeterminate = (name: string, power: Rational = Q.one): Exact => {
  const powers = new Map([[name, power]])
  return { over: new Map([[keyOf(powers), { powers, by: Q.one }]]), under: unit }
}

const asRational = (value: Exact): Rational | undefined => {
  const over = only(value.over)
  const under = only(value.under)
  if (value.over.size === 0) return Q.zero
  return over?.powers.size === 0 && under?.powers.size === 0 ? Q.div(over.by, under.by) : undefined
}

const only = (polynomial: Polynomial): Term | undefined =>
  polynomial.size === 1 ? polynomial.values().next().value : undefined

/** Whether a polynomial that is not zero by its terms may still be zero. */
const related = (polynomial: Polynomial): boolean => {
  for (const { powers } of polynomial.values()) {
    for (const name of powers.keys()) if (/^(?:f|b|u):|\^:.*(?:f:|b:|u:|l:|c:i)/.test(name)) return true
  }
  return false
}

/** The algebra of one comparison, with its share of work. */
export const algebra = () => {
  let work = 0
  /** What the roots among the indeterminates are roots of. */
  const radicands = new Map<string, Polynomial>()

  const plus = (a: Polynomial, b: Polynomial, sign: 1n | -1n = 1n): Polynomial => {
    const sum = new Map(a)
    for (const [key, term] of b) {
      const before = sum.get(key)
      const by = sign === 1n ? term.by : Q.neg(term.by)
      const total = before === undefined ? by : Q.add(before.by, by)
      if (total.n === 0n) sum.delete(key)
      else sum.set(key, { powers: term.powers, by: total })
    }
    if (sum.size > maxTerms) throw new TooLarge(`over ${maxTerms} terms`)
    return sum
  }

  const timesTerm = (a: Term, b: Term): Polynomial => {
    const by = Q.mul(a.by, b.by)
    if (a.powers.size === 0 || b.powers.size === 0) {
      const powers = a.powers.size === 0 ? b.powers : a.powers
      return new Map([[keyOf(powers), { powers, by }]])
    }
    const powers = new Map(a.powers)
    for (const [name, power] of b.powers) powers.set(name, Q.add(powers.get(name) ?? Q.zero, power))
    return normal(powers, by)
  }

  /** A product of powers in the form that only it has: fractional powers of primes below 1, of i below 2. */
  const normal = (powers: Map<string, Rational>, factor: Rational): Polynomial => {
    let by = factor
    let expanded: Polynomial | undefined
    for (const [name, power] of powers) {
      if (power.n === 0n) {
        powers.delete(name)
        continue
      }
      const whole = Q.floor(power)
      let left = power
      if (name.startsWith("p:") && whole !== 0n) {
        by = Q.mul(by, Q.power(Q.integer(BigInt(name.slice(2))), whole))
        left = Q.sub(power, Q.integer(whole))
      } else if (name === "c:i") {
        const turns = ((power.n % 4n) + 4n) % 4n
        if (turns >= 2n) by = Q.neg(by)
        left = Q.integer(turns % 2n)
      } else if (name.startsWith("b:") && whole > 0n) {
        for (let count = 0n; count < whole; count++) expanded = times(expanded ?? unit, radicands.get(name)!)
        left = Q.sub(power, Q.integer(whole))
      }
      if (left.n === 0n) powers.delete(name)
      else powers.set(name, left)
    }
    const term: Polynomial = new Map([[keyOf(powers), { powers, by }]])
    return expanded === undefined ? term : times(term, expanded)
  }

  const times = (a: Polynomial, b: Polynomial): Polynomial => {
    work += a.size * b.size
    if (work > maxWork) throw new TooLarge("too many terms")
    if (a === unit) return b
    if (b === unit) return a
    const product = new Map<string, Term>()
    for (const x of a.values()) {
      for (const y of b.values()) {
        for (const [key, term] of timesTerm(x, y)) {
          const before = product.get(key)
          const by = before === undefined ? term.by : Q.add(before.by, term.by)
          if (by.n === 0n) product.delete(key)
          else product.set(key, { powers: term.powers, by })
        }
      }
      if (product.size > maxTerms) throw new TooLarge(`over ${maxTerms} terms`)
    }
    return product
  }

  const make = (over: Polynomial, under: Polynomial): Exact => {
    if (under.size === 0) throw new NonFinite("division by zero")
    const below = only(under)
    if (over.size === 0) return rational(Q.zero)
    // a root below stays there: its powers are only ever multiplied up
    if (below === undefined || [...below.powers.keys()].some((name) => name.startsWith("b:"))) return { over, under }
    const powers = new Map([...below.powers].map(([name, power]) => [name, Q.neg(power)] as const))
    let inverse: Polynomial = constant(Q.div(Q.one, below.by))
    for (const [name, power] of powers) inverse = times(inverse, raised(name, power))
    return { over: times(over, inverse), under: unit }
  }

  /** A power of one indeterminate, in its normal form. */
  const raised = (name: string, power: Rational): Polynomial => normal(new Map([[name, power]]), Q.one)

  const add = (a: Exact, b: Exact, sign: 1n | -1n = 1n): Exact =>
    a.under === unit && b.under === unit
      ? { over: plus(a.over, b.over, sign), under: unit }
      : make(plus(times(a.over, b.under), times(b.over, a.under), sign), times(a.under, b.under))
  const mul = (a: Exact, b: Exact): Exact => make(times(a.over, b.over), times(a.under, b.under))
  const div = (a: Exact, b: Exact): Exact => make(times(a.over, b.under), times(a.under, b.over))
  const neg = (a: Exact): Exact => ({ over: plus(new Map(), a.over, -1n), under: a.under })

  const integral = (base: Exact, exponent: bigint): Exact => {
    const own = asRational(base)
    if (own !== undefined) return rational(Q.power(own, exponent))
    if (base.over.size === 0) throw new NonFinite(exponent === 0n ? "0^0" : "division by zero")
    const size = exponent < 0n ? -exponent : exponent
    const single = only(base.over)
    if (size > 1000n || (size > 60n && single === undefined)) throw new TooLarge("a power of that size")
    let result: Exact = rational(Q.one)
    let square = base
    for (let left = size; left > 0n; left >>= 1n) {
      if (left & 1n) result = mul(result, square)
      if (left > 1n) square = mul(square, square)
    }
    return exponent < 0n ? div(rational(Q.one), result) : result
  }

  /** A fractional power of a positive rational number. */
  const root = (value: Rational, exponent: Rational): Exact => {
    let result: Exact = rational(Q.one)
    for (const [part, sign] of [
      [value.n, 1n],
      [value.d, -1n]
    ] as const) {
      const { primes, certain } = Q.factors(part)
      for (const [prime, count] of primes) {
        const power = Q.mul(exponent, Q.integer(BigInt(count) * sign))
        // a factor that may be composite may share primes with another
        const loose = !certain && prime > 10_000_000_000n
        result = mul(
          result,
          loose && power.d !== 1n
            ? { over: raised(`u:${prime}`, power), under: unit }
            : { over: raised(`p:${prime}`, power), under: unit }
        )
      }
    }
    return result
  }

  const key = (value: Exact): string => {
    const text = `${polynomialText(value.over)}${value.under === unit ? "" : `/(${polynomialText(value.under)})`}`
    if (text.length > 5000) throw new TooLarge("an argument of that size")
    return text
  }

  const pow = (base: Exact, exponent: Exact, real: boolean): Exact => {
    const by = asRational(exponent)
    if (by !== undefined) {
      if (by.d === 1n) return integral(base, by.n)
      if (base.over.size === 0) {
        if (by.n < 0n) throw new NonFinite("division by zero")
        return rational(Q.zero)
      }
      if (by.d > 1000n || by.n > 1000n || by.n < -1000n) throw new TooLarge("an exponent of that size")
      const single = base.under === unit ? only(base.over) : undefined
      if (single !== undefined) {
        const positive = single.by.n > 0n
        const symbols = [...single.powers].filter(([name]) => !/^(?:p:|c:pi$|c:e$)/.test(name))
        const plain =
          symbols.length === 0 ||
          (symbols.length === 1 && symbols[0]![0].startsWith("x:") && Q.equal(symbols[0]![1], Q.one))
        if (plain && (positive || (symbols.length === 0 && (by.d === 2n || (real && by.d % 2n === 1n))))) {
          const size = positive ? single.by : Q.neg(single.by)
          let result = root(size, by)
          for (const [name, power] of single.powers) {
            result = mul(result, { over: raised(name, Q.mul(power, by)), under: unit })
          }
          if (positive) return result
          // an odd root of a negative number is the real one
          if (by.d === 2n) return mul(result, integral(indeterminate("c:i"), ((by.n % 4n) + 4n) % 4n))
          return by.n % 2n === 0n ? result : neg(result)
        }
      }
      if (base.under === unit) {
        const content = contentOf(base.over)
        const own = [...base.over.values()].map((term) => [term.powers, Q.div(term.by, content)] as const)
        const primitive: Polynomial = new Map(own.map(([powers, part]) => [keyOf(powers), { powers, by: part }]))
        const name = `b:${key({ over: primitive, under: unit })}`
        radicands.set(name, primitive)
        const whole = Q.floor(by)
        const atom = indeterminate(name, Q.sub(by, Q.integer(whole)))
        return mul(root(content, by), mul(atom, integral({ over: primitive, under: unit }, whole)))
      }
      return indeterminate(`f:pow(${key(base)},${Q.text(by)})`)
    }
    const own = asRational(base)
    const natural = base.under === unit ? only(base.over) : undefined
    const isE =
      natural !== undefined && Q.equal(natural.by, Q.one) && natural.powers.size === 1 && natural.powers.has("c:e")
    if (exponent.under === unit && (isE || (own !== undefined && own.n > 0n))) {
      let result: Exact = rational(Q.one)
      for (const { powers, by: part } of exponent.over.values()) {
        const factor = isE ? exponential("e", powers, Q.mul(part, natural.powers.get("c:e")!)) : undefined
        if (factor !== undefined) result = mul(result, factor)
        else {
          for (const [n, sign] of [
            [own!.n, 1n],
            [own!.d, -1n]
          ] as const) {
            const { primes, certain } = Q.factors(n)
            for (const [prime, count] of primes) {
              const name = certain || prime <= 10_000_000_000n ? String(prime) : `u:${prime}`
              result = mul(result, exponential(name, powers, Q.mul(part, Q.integer(BigInt(count) * sign))))
            }
          }
        }
      }
      return result
    }
    return indeterminate(`f:pow(${key(base)},${key(exponent)})`)
  }

  const exponential = (base: string, powers: Powers, by: Rational): Exact => {
    if (powers.size === 0) {
      if (base === "e") return indeterminate("c:e", by)
      return { over: raised(`p:${base}`, by), under: unit }
    }
    const [name, power] = powers.entries().next().value!
    if (base === "e" && powers.size === 1 && name.startsWith("l:") && Q.equal(power, Q.one)) {
      return name === "l:pi" ? indeterminate("c:pi", by) : root(Q.integer(BigInt(name.slice(2))), by)
    }
    return indeterminate(`${base}^:${keyOf(powers)}`, by)
  }

  const logarithm = (value: Exact): Exact => {
    if (value.over.size === 0) throw new NonFinite("the logarithm of zero")
    const single = value.under === unit ? only(value.over) : undefined
    const known =
      single !== undefined &&
      single.by.n > 0n &&
      [...single.powers.keys()].every((name) => /^(?:p:|c:pi$|c:e$)/.test(name))
    if (!known) return indeterminate(`f:ln(${key(value)})`)
    let result: Exact = rational(Q.zero)
    const count = (name: string, by: Rational): void => {
      const part = name === "c:e" ? rational(by) : mul(rational(by), indeterminate(name === "c:pi" ? "l:pi" : name))
      result = add(result, part)
    }
    for (const [part, sign] of [
      [single.by.n, 1n],
      [single.by.d, -1n]
    ] as const) {
      const { primes, certain } = Q.factors(part)
      for (const [prime, times] of primes) {
        count(certain || prime <= 10_000_000_000n ? `l:${prime}` : `u:ln ${prime}`, Q.integer(BigInt(times) * sign))
      }
    }
    for (const [name, power] of single.powers) count(name.startsWith("p:") ? `l:${name.slice(2)}` : name, power)
    return result
  }

  /** Sine of a multiple of pi/12, where it is a root. */
  const sine = (turns: Rational): Exact | undefined => {
    const twelfths = Q.mul(turns, Q.integer(12))
    if (twelfths.d !== 1n) return undefined
    const step = Number(((twelfths.n % 24n) + 24n) % 24n)
    const sign = step >= 12
    const first = step % 12 > 6 ? 12 - (step % 12) : step % 12
    const sqrt = (n: number) => root(Q.integer(n), Q.ratio(1n, 2n))
    const quarter = (x: Exact) => mul(x, rational(Q.ratio(1n, 4n)))
    const half = (x: Exact) => mul(x, rational(Q.ratio(1n, 2n)))
    const values = [
      () => rational(Q.zero),
      () => quarter(add(sqrt(6), sqrt(2), -1n)),
      () => rational(Q.ratio(1n, 2n)),
      () => half(sqrt(2)),
      () => half(sqrt(3)),
      () => quarter(add(sqrt(6), sqrt(2))),
      () => rational(Q.one)
    ]
    const value = values[first]!()
    return sign ? neg(value) : value
  }

  const sinus = (argument: Exact, shift: Rational, name: string): Exact => {
    const turns = turnsOf(argument)
    const known = turns === undefined ? undefined : sine(Q.add(turns, shift))
    return known ?? indeterminate(`f:${name}(${key(argument)})`)
  }
  /** r where the value is r times pi. */
  const turnsOf = (value: Exact): Rational | undefined => {
    if (value.over.size === 0) return Q.zero
    const single = value.under === unit ? only(value.over) : undefined
    const power = single?.powers.get("c:pi")
    return single !== undefined && single.powers.size === 1 && power !== undefined && Q.equal(power, Q.one)
      ? single.by
      : undefined
  }
  const half = Q.ratio(1n, 2n)

  /** Throws `TooLarge` and `NonFinite`. */
  const of = (node: Expression): Exact => {
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
        return node.args.map(of).reduce((sum, arg) => add(sum, arg))
      case "mul":
        return node.args.map(of).reduce((product, arg) => mul(product, arg))
      case "neg":
        return neg(of(node.args[0]))
      case "div":
        return div(of(node.args[0]), of(node.args[1]))
      case "pow":
        return pow(of(node.args[0]), of(node.args[1]), true)
      case "root": {
        const order = asRational(of(node.args[1]))
        if (order === undefined || order.d !== 1n || order.n < 1n) throw new TooLarge("a root of that order")
        return pow(of(node.args[0]), rational(Q.div(Q.one, order)), true)
      }
      case "ln":
        return logarithm(of(node.args[0]))
      case "log":
        return div(logarithm(of(node.args[0])), logarithm(of(node.args[1])))
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
        return sinus(of(node.args[0]), Q.zero, "sin")
      case "cos":
        return sinus(of(node.args[0]), half, "cos")
      case "tan":
        return div(sinus(of(node.args[0]), Q.zero, "sin"), sinus(of(node.args[0]), half, "cos"))
      case "cot":
        return div(sinus(of(node.args[0]), half, "cos"), sinus(of(node.args[0]), Q.zero, "sin"))
      case "sec":
        return div(rational(Q.one), sinus(of(node.args[0]), half, "cos"))
      case "csc":
        return div(rational(Q.one), sinus(of(node.args[0]), Q.zero, "sin"))
      default:
        return indeterminate(`f:${node.op}(${key(of(node.args[0]))})`)
    }
  }

  /** `undecided`: not the same by algebra, and no reason to say that they differ. */
  const compare = (a: Exact, b: Exact): "equal" | "different" | "undecided" => {
    const difference = plus(times(a.over, b.under), times(b.over, a.under), -1n)
    // a denominator that is zero in disguise makes everything equal
    if (difference.size === 0) return related(a.under) || related(b.under) ? "undecided" : "equal"
    return related(difference) ? "undecided" : "different"
  }

  /** Whether one is the other times a number other than zero. */
  const proportional = (a: Exact, b: Exact): boolean => {
    if (a.over.size === 0 || b.over.size === 0) return a.over.size === b.over.size
    const left = times(a.over, b.under)
    const right = times(b.over, a.under)
    if (left.size !== right.size || related(left) || related(right)) return false
    const [name, first] = left.entries().next().value!
    const other = right.get(name)
    if (other === undefined) return false
    const factor = Q.div(first.by, other.by)
    return plus(left, times(right, constant(factor)), -1n).size === 0
  }

  return { of, compare, proportional, rational: asRational, sub: (a: Exact, b: Exact): Exact => add(a, b, -1n) }
}

const polynomialText = (polynomial: Polynomial): string =>
  [...polynomial]
    .map(([key, { by }]) => `${Q.text(by)}[${key}]`)
    .toSorted()
    .join("+")

/** The positive number that leaves whole coefficients without a common factor. */
const contentOf = (polynomial: Polynomial): Rational => {
  let over = 0n
  let under = 1n
  const gcd = (a: bigint, b: bigint): bigint => (b === 0n ? (a < 0n ? -a : a) : gcd(b, a % b))
  for (const { by } of polynomial.values()) {
    over = gcd(over, by.n)
    under = (under * by.d) / gcd(under, by.d)
  }
  return Q.ratio(over, under)
}
