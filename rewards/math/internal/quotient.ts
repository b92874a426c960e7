/** Quotients of polynomials: sums, products, whole powers and roots of positive rational numbers. */
import * as Q from "./rational.ts"
import { NonFinite, type Rational, TooLarge } from "./rational.ts"
import { constant, keyOf, only, type Polynomial, polynomialText, unit } from "./polynomial.ts"
import { Ring } from "./ring.ts"

export interface Exact {
  readonly over: Polynomial
  readonly under: Polynomial
}

export const rational = (by: Rational): Exact => ({ over: constant(by), under: unit })
export const indeterminate = (name: string, power: Rational = Q.one): Exact => {
  const powers = new Map([[name, power]])
  return { over: new Map([[keyOf(powers), { powers, by: Q.one }]]), under: unit }
}

export const asRational = (value: Exact): Rational | undefined => {
  const over = only(value.over)
  const under = only(value.under)
  if (value.over.size === 0) return Q.zero
  return over?.powers.size === 0 && under?.powers.size === 0 ? Q.div(over.by, under.by) : undefined
}

export class Field {
  readonly ring = new Ring()

  make(over: Polynomial, under: Polynomial): Exact {
    if (under.size === 0) throw new NonFinite("division by zero")
    const below = only(under)
    if (over.size === 0) return rational(Q.zero)
    // a root below stays there: its powers are only ever multiplied up
    if (below === undefined || [...below.powers.keys()].some((name) => name.startsWith("b:"))) return { over, under }
    const powers = new Map([...below.powers].map(([name, power]) => [name, Q.neg(power)] as const))
    let inverse: Polynomial = constant(Q.div(Q.one, below.by))
    for (const [name, power] of powers) inverse = this.ring.times(inverse, this.ring.raised(name, power))
    return { over: this.ring.times(over, inverse), under: unit }
  }

  add(a: Exact, b: Exact, sign: 1n | -1n = 1n): Exact {
    return a.under === unit && b.under === unit
      ? { over: this.ring.plus(a.over, b.over, sign), under: unit }
      : this.make(
          this.ring.plus(this.ring.times(a.over, b.under), this.ring.times(b.over, a.under), sign),
          this.ring.times(a.under, b.under)
        )
  }
  mul(a: Exact, b: Exact): Exact {
    return this.make(this.ring.times(a.over, b.over), this.ring.times(a.under, b.under))
  }
  div(a: Exact, b: Exact): Exact {
    return this.make(this.ring.times(a.over, b.under), this.ring.times(a.under, b.over))
  }
  neg(a: Exact): Exact {
    return { over: this.ring.plus(new Map(), a.over, -1n), under: a.under }
  }

  integral(base: Exact, exponent: bigint): Exact {
    const own = asRational(base)
    if (own !== undefined) return rational(Q.power(own, exponent))
    if (base.over.size === 0) throw new NonFinite(exponent === 0n ? "0^0" : "division by zero")
    const size = exponent < 0n ? -exponent : exponent
    const single = only(base.over)
    if (size > 1000n || (size > 60n && single === undefined)) throw new TooLarge("a power of that size")
    let result: Exact = rational(Q.one)
    let square = base
    for (let left = size; left > 0n; left >>= 1n) {
      if (left & 1n) result = this.mul(result, square)
      if (left > 1n) square = this.mul(square, square)
    }
    return exponent < 0n ? this.div(rational(Q.one), result) : result
  }

  /** A fractional power of a positive rational number. */
  root(value: Rational, exponent: Rational): Exact {
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
        result = this.mul(
          result,
          loose && power.d !== 1n
            ? { over: this.ring.raised(`u:${prime}`, power), under: unit }
            : { over: this.ring.raised(`p:${prime}`, power), under: unit }
        )
      }
    }
    return result
  }
}

/** Text that only equal quotients share. */
export const key = (value: Exact): string => {
  const text = `${polynomialText(value.over)}${value.under === unit ? "" : `/(${polynomialText(value.under)})`}`
  if (text.length > 5000) throw new TooLarge("an argument of that size")
  return text
}
