/**
 * Counter-based random numbers, equal to the native kernel's: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel
 * random numbers: as easy as 1, 2, 3", SC 2011). A number is a pure function of its seed, stream, index and position.
 */
const [MULTIPLY_0, MULTIPLY_2] = [0xd2511f53, 0xcd9e8d57]
const [WEYL_0, WEYL_1] = [0x9e3779b9, 0xbb67ae85]
const ROUNDS = 10

/** Upper half of a product of two unsigned 32-bit numbers. */
const high = (a: number, b: number): number => {
  const [aHigh, aLow, bHigh, bLow] = [a >>> 16, a & 0xffff, b >>> 16, b & 0xffff]
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16)
  const carry = aLow * bHigh + (middle & 0xffff)
  return (aHigh * bHigh + Math.floor(middle / 0x10000) + Math.floor(carry / 0x10000)) >>> 0
}

/** The bare generator: a counter of 128 bits under a key of 64. */
export const philox4x32 = (
  counter: readonly [number, number, number, number],
  key: readonly [number, number]
): readonly [number, number, number, number] => {
  let [c0, c1, c2, c3] = counter
  let [k0, k1] = key
  for (let round = 0; round < ROUNDS; round++) {
    if (round > 0) {
      k0 = (k0 + WEYL_0) >>> 0
      k1 = (k1 + WEYL_1) >>> 0
    }
    const [high0, low0] = [high(MULTIPLY_0, c0), Math.imul(MULTIPLY_0, c0) >>> 0]
    const [high2, low2] = [high(MULTIPLY_2, c2), Math.imul(MULTIPLY_2, c2) >>> 0]
    c0 = (high2 ^ c1 ^ k0) >>> 0
    c1 = low2
    c2 = (high0 ^ c3 ^ k1) >>> 0
    c3 = low0
  }
  return [c0, c1, c2, c3]
}

/**
 * Makes a generator of one 64-bit seed and one 64-bit stream. It maps an index and a position to a uniform number in
 * [0, 1), of 53 bits.
 */
export const uniforms = (seed: bigint, stream: bigint): ((index: number, position: number) => number) => {
  const halves = (value: bigint) => [Number(value & 0xffffffffn), Number((value >> 32n) & 0xffffffffn)] as const
  const [key, [low, top]] = [halves(seed), halves(stream)]
  return (index, position) => {
    const [first, second] = philox4x32([position >>> 0, index >>> 0, low, top], key)
    return (first * 2 ** 21 + (second >>> 11)) * 2 ** -53
  }
}
