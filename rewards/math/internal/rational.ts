/** Exact rational numbers on bigint, bounded in size: an answer that needs more is not an answer. */

export interface Rational {
  readonly n: bigint
  /** Positive, and without a common factor with `n`. */
  readonly d: bigint
}

/** The value is larger than an answer may be; nothing was computed. */
export class TooLarge extends Error {}

/** No finite value: a division by zero, the logarithm of zero, infinity. */
export class NonFinite extends Error {}

const maxBits = 8192

const bits = (value: bigint): number => {
  const hex = (value < 0n ? -value : value).toString(16)
  return hex.length * 4
}

const gcd = (a: bigint, b: bigint): bigint => {
  let x = a < 0n ? -a : a
  let y = b < 0n ? -b : b
  while (y !== 0n) [x, y] = [y, x % y]
  return x
}

export const ratio = (n: bigint, d: bigint): Rational => {
  if (d === 0n) throw new NonFinite("division by zero")
  if (d === 1n) return bounded({ n, d })
  const common = gcd(n, d) * (d < 0n ? -1n : 1n)
  return bounded({ n: n / common, d: d / common })
}

const bounded = (value: Rational): Rational => {
  if (value.n > limit || value.n < -limit || value.d > limit) throw new TooLarge(`a number of over ${maxBits} bits`)
  return value
}
const limit = 1n << BigInt(maxBits)

export const zero: Rational = { n: 0n, d: 1n }
export const one: Rational = { n: 1n, d: 1n }
export const integer = (n: bigint | number): Rational => ({ n: BigInt(n), d: 1n })
export const add = (a: Rational, b: Rational): Rational => ratio(a.n * b.d + b.n * a.d, a.d * b.d)
export const sub = (a: Rational, b: Rational): Rational => ratio(a.n * b.d - b.n * a.d, a.d * b.d)
export const mul = (a: Rational, b: Rational): Rational => ratio(a.n * b.n, a.d * b.d)
export const div = (a: Rational, b: Rational): Rational => ratio(a.n * b.d, a.d * b.n)
export const neg = (a: Rational): Rational => ({ n: -a.n, d: a.d })
export const equal = (a: Rational, b: Rational): boolean => a.n === b.n && a.d === b.d
export const compare = (a: Rational, b: Rational): number => {
  const difference = a.n * b.d - b.n * a.d
  return difference < 0n ? -1 : Number(difference > 0n)
}
export const floor = (a: Rational): bigint => {
  const quotient = a.n / a.d
  return a.n < 0n && quotient * a.d !== a.n ? quotient - 1n : quotient
}
export const text = (a: Rational): string => (a.d === 1n ? `${a.n}` : `${a.n}/${a.d}`)

/** The size of a power is known before it is computed. */
export const power = (base: Rational, exponent: bigint): Rational => {
  if (base.n === 0n && exponent <= 0n) throw new NonFinite(exponent === 0n ? "0^0" : "division by zero")
  const size = exponent < 0n ? -exponent : exponent
  const own = Math.max(bits(base.n), bits(base.d))
  const unit = (base.n === 1n || base.n === -1n) && base.d === 1n
  if (base.n === 0n) return zero
  if (unit) return exponent % 2n === 0n ? one : base
  if (size > BigInt(maxBits) || Number(size) * own > maxBits * 5) throw new TooLarge("a power of that size")
  return exponent < 0n ? ratio(base.d ** size, base.n ** size) : ratio(base.n ** size, base.d ** size)
}

export const factorial = (n: bigint): bigint => {
  if (n > 500n) throw new TooLarge(`${n > 10n ** 20n ? "a factorial of that size" : `${n}!`}`)
  let product = 1n
  for (let k = 2n; k <= n; k++) product *= k
  return product
}

export const binomial = (n: bigint, k: bigint): bigint => {
  if (n < 0n || k < 0n || n > 1000n) throw new TooLarge("a binomial coefficient of that size")
  if (k > n) return 0n
  const least = k < n - k ? k : n - k
  let product = 1n
  for (let j = 1n; j <= least; j++) product = (product * (n - least + j)) / j
  return product
}

/**
 * Prime factors with their powers, by trial division; what is left over is named apart where it may not be prime.
 */
export const factors = (value: bigint): { readonly primes: ReadonlyMap<bigint, number>; readonly certain: boolean } => {
  const primes = new Map<bigint, number>()
  const count = (p: bigint): void => {
    primes.set(p, (primes.get(p) ?? 0) + 1)
  }
  let large = value
  for (let p = 2n; large > safe && p < 5000n; p += p === 2n ? 1n : 2n) {
    while (large % p === 0n) {
      large /= p
      count(p)
    }
  }
  if (large > safe) {
    count(large)
    return { primes, certain: false }
  }
  let rest = Number(large)
  let p = 2
  for (; p < 100_000 && p * p <= rest; p += p === 2 ? 1 : 2) {
    while (rest % p === 0) {
      rest /= p
      count(BigInt(p))
    }
  }
  if (rest > 1) count(BigInt(rest))
  return { primes, certain: p * p > rest }
}
const safe = BigInt(Number.MAX_SAFE_INTEGER)

/** Decimal digits, with a point or without. `repeating`: the digits that repeat for ever after them. */
export const decimal = (digits: string, exponent = 0, repeating = ""): Rational => {
  const [whole = "", fraction = ""] = digits.split(".")
  if (Math.abs(exponent) > 2000 || digits.length + repeating.length > 2000)
    throw new TooLarge("a number of that length")
  let value = ratio(BigInt(`${whole}${fraction}` || "0"), 10n ** BigInt(fraction.length))
  if (repeating !== "") {
    const tail = ratio(BigInt(repeating), 10n ** BigInt(repeating.length) - 1n)
    value = add(value, div(tail, integer(10n ** BigInt(fraction.length))))
  }
  if (exponent === 0) return value
  const scale = integer(10n ** BigInt(Math.abs(exponent)))
  return exponent > 0 ? mul(value, scale) : div(value, scale)
}
