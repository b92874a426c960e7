/** Powers, exponentials and logarithms of quotients. */
import * as Q from "./rational.ts"
import { NonFinite, type Rational, TooLarge } from "./rational.ts"
import { contentOf, keyOf, only, type Polynomial, type Powers, unit } from "./polynomial.ts"
import { asRational, type Exact, type Field, indeterminate, key, rational } from "./quotient.ts"

export const pow = (field: Field, base: Exact, exponent: Exact, real: boolean): Exact => {
  const by = asRational(exponent)
  if (by !== undefined) {
    if (by.d === 1n) return field.integral(base, by.n)
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
        let result = field.root(size, by)
        for (const [name, power] of single.powers) {
          result = field.mul(result, { over: field.ring.raised(name, Q.mul(power, by)), under: unit })
        }
        if (positive) return result
        // an odd root of a negative number is the real one
        if (by.d === 2n) return field.mul(result, field.integral(indeterminate("c:i"), ((by.n % 4n) + 4n) % 4n))
        return by.n % 2n === 0n ? result : field.neg(result)
      }
    }
    if (base.under === unit) {
      const content = contentOf(base.over)
      const own = [...base.over.values()].map((term) => [term.powers, Q.div(term.by, content)] as const)
      const primitive: Polynomial = new Map(own.map(([powers, part]) => [keyOf(powers), { powers, by: part }]))
      const name = `b:${key({ over: primitive, under: unit })}`
      field.ring.radicands.set(name, primitive)
      const whole = Q.floor(by)
      const atom = indeterminate(name, Q.sub(by, Q.integer(whole)))
      return field.mul(
        field.root(content, by),
        field.mul(atom, field.integral({ over: primitive, under: unit }, whole))
      )
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
      const factor = isE ? exponential(field, "e", powers, Q.mul(part, natural.powers.get("c:e")!)) : undefined
      if (factor !== undefined) result = field.mul(result, factor)
      else {
        for (const [n, sign] of [
          [own!.n, 1n],
          [own!.d, -1n]
        ] as const) {
          const { primes, certain } = Q.factors(n)
          for (const [prime, count] of primes) {
            const name = certain || prime <= 10_000_000_000n ? String(prime) : `u:${prime}`
            result = field.mul(result, exponential(field, name, powers, Q.mul(part, Q.integer(BigInt(count) * sign))))
          }
        }
      }
    }
    return result
  }
  return indeterminate(`f:pow(${key(base)},${key(exponent)})`)
}

const exponential = (field: Field, base: string, powers: Powers, by: Rational): Exact => {
  if (powers.size === 0) {
    if (base === "e") return indeterminate("c:e", by)
    return { over: field.ring.raised(`p:${base}`, by), under: unit }
  }
  const [name, power] = powers.entries().next().value!
  if (base === "e" && powers.size === 1 && name.startsWith("l:") && Q.equal(power, Q.one)) {
    return name === "l:pi" ? indeterminate("c:pi", by) : field.root(Q.integer(BigInt(name.slice(2))), by)
  }
  return indeterminate(`${base}^:${keyOf(powers)}`, by)
}

export const logarithm = (field: Field, value: Exact): Exact => {
  if (value.over.size === 0) throw new NonFinite("the logarithm of zero")
  const single = value.under === unit ? only(value.over) : undefined
  const known =
    single !== undefined &&
    single.by.n > 0n &&
    [...single.powers.keys()].every((name) => /^(?:p:|c:pi$|c:e$)/.test(name))
  if (!known) return indeterminate(`f:ln(${key(value)})`)
  let result: Exact = rational(Q.zero)
  const count = (name: string, by: Rational): void => {
    const part = name === "c:e" ? rational(by) : field.mul(rational(by), indeterminate(name === "c:pi" ? "l:pi" : name))
    result = field.add(result, part)
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
