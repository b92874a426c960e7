/** Sines and cosines of multiples of pi/12, which are roots; others are indeterminates. */
import * as Q from "./rational.ts"
import type { Rational } from "./rational.ts"
import { only, unit } from "./polynomial.ts"
import { type Exact, type Field, indeterminate, key, rational } from "./quotient.ts"

/** Sine of a multiple of pi/12, where it is a root. */
const sineOfTurns = (field: Field, turns: Rational): Exact | undefined => {
  const twelfths = Q.mul(turns, Q.integer(12))
  if (twelfths.d !== 1n) return undefined
  const step = Number(((twelfths.n % 24n) + 24n) % 24n)
  const sign = step >= 12
  const first = step % 12 > 6 ? 12 - (step % 12) : step % 12
  const sqrt = (n: number) => field.root(Q.integer(n), Q.ratio(1n, 2n))
  const quarter = (x: Exact) => field.mul(x, rational(Q.ratio(1n, 4n)))
  const half = (x: Exact) => field.mul(x, rational(Q.ratio(1n, 2n)))
  const values = [
    () => rational(Q.zero),
    () => quarter(field.add(sqrt(6), sqrt(2), -1n)),
    () => rational(Q.ratio(1n, 2n)),
    () => half(sqrt(2)),
    () => half(sqrt(3)),
    () => quarter(field.add(sqrt(6), sqrt(2))),
    () => rational(Q.one)
  ]
  const value = values[first]!()
  return sign ? field.neg(value) : value
}

export const sine = (field: Field, argument: Exact, shift: Rational, name: string): Exact => {
  const turns = turnsOf(argument)
  const known = turns === undefined ? undefined : sineOfTurns(field, Q.add(turns, shift))
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
