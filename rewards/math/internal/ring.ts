/** The ring of polynomials of one comparison, with its share of work. Every product is in a form that only it has. */
import * as Q from "./rational.ts"
import { type Rational, TooLarge } from "./rational.ts"
import { keyOf, type Polynomial, type Term, unit } from "./polynomial.ts"

const maxTerms = 400
/** Products of terms in one comparison: some tens of milliseconds. */
const maxWork = 80_000

export class Ring {
  #work = 0
  /** The radicand of each root among the indeterminates. */
  readonly radicands = new Map<string, Polynomial>()

  plus(a: Polynomial, b: Polynomial, sign: 1n | -1n = 1n): Polynomial {
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

  #timesTerm(a: Term, b: Term): Polynomial {
    const by = Q.mul(a.by, b.by)
    if (a.powers.size === 0 || b.powers.size === 0) {
      const powers = a.powers.size === 0 ? b.powers : a.powers
      return new Map([[keyOf(powers), { powers, by }]])
    }
    const powers = new Map(a.powers)
    for (const [name, power] of b.powers) powers.set(name, Q.add(powers.get(name) ?? Q.zero, power))
    return this.#normal(powers, by)
  }

  /** A product of powers in the form that only it has: fractional powers of primes below 1, of i below 2. */
  #normal(powers: Map<string, Rational>, factor: Rational): Polynomial {
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
        for (let count = 0n; count < whole; count++) expanded = this.times(expanded ?? unit, this.radicands.get(name)!)
        left = Q.sub(power, Q.integer(whole))
      }
      if (left.n === 0n) powers.delete(name)
      else powers.set(name, left)
    }
    const term: Polynomial = new Map([[keyOf(powers), { powers, by }]])
    return expanded === undefined ? term : this.times(term, expanded)
  }

  times(a: Polynomial, b: Polynomial): Polynomial {
    this.#work += a.size * b.size
    if (this.#work > maxWork) throw new TooLarge("too many terms")
    if (a === unit) return b
    if (b === unit) return a
    const product = new Map<string, Term>()
    for (const x of a.values()) {
      for (const y of b.values()) {
        for (const [key, term] of this.#timesTerm(x, y)) {
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

  /** A power of one indeterminate, in its normal form. */
  raised(name: string, power: Rational): Polynomial {
    return this.#normal(new Map([[name, power]]), Q.one)
  }
}
