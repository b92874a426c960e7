/** Polynomials over the rationals in named indeterminates, as maps from a product of powers to its term. */
import * as Q from "./rational.ts"
import type { Rational } from "./rational.ts"

/** Exponents by indeterminate. */
export type Powers = ReadonlyMap<string, Rational>
export interface Term {
  readonly powers: Powers
  readonly by: Rational
}
export type Polynomial = ReadonlyMap<string, Term>

export const keyOf = (powers: Powers): string =>
  [...powers]
    .map(([name, power]) => `${name}^${Q.text(power)}`)
    .toSorted()
    .join(" ")

const none: Powers = new Map()
export const constant = (by: Rational): Polynomial => (by.n === 0n ? new Map() : new Map([["", { powers: none, by }]]))
export const unit = constant(Q.one)
export const only = (polynomial: Polynomial): Term | undefined =>
  polynomial.size === 1 ? polynomial.values().next().value : undefined

/** Whether a polynomial that is not zero by its terms may still be zero. */
export const related = (polynomial: Polynomial): boolean => {
  for (const { powers } of polynomial.values()) {
    for (const name of powers.keys()) if (/^(?:f|b|u):|\^:.*(?:f:|b:|u:|l:|c:i)/.test(name)) return true
  }
  return false
}

export const polynomialText = (polynomial: Polynomial): string =>
  [...polynomial]
    .map(([key, { by }]) => `${Q.text(by)}[${key}]`)
    .toSorted()
    .join("+")

/** The positive number that leaves whole coefficients without a common factor. */
export const contentOf = (polynomial: Polynomial): Rational => {
  let over = 0n
  let under = 1n
  const gcd = (a: bigint, b: bigint): bigint => (b === 0n ? (a < 0n ? -a : a) : gcd(b, a % b))
  for (const { by } of polynomial.values()) {
    over = gcd(over, by.n)
    under = (under * by.d) / gcd(under, by.d)
  }
  return Q.ratio(over, under)
}
