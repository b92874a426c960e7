import { hash64 } from "./hash64.ts"

/** Uniform 32-bit numbers from sfc32 (Doty-Humphrey, PractRand). Each label has its own stream. */
export const randomStream = (label: string): (() => number) => {
  const first = hash64(label)
  const second = hash64(`${label}'`)
  let a = Number(first & 0xffffffffn) | 0
  let b = Number(first >> 32n) | 0
  let c = Number(second & 0xffffffffn) | 0
  let counter = Number(second >> 32n) | 0
  const next = () => {
    const out = (((a + b) | 0) + counter) | 0
    counter = (counter + 1) | 0
    a = b ^ (b >>> 9)
    b = (c + (c << 3)) | 0
    c = (c << 21) | (c >>> 11)
    c = (c + out) | 0
    return out >>> 0
  }
  // FNV leaves the high bits of short labels alike; a dozen rounds spread them.
  for (let i = 0; i < 12; i++) next()
  return next
}

/** Fisher-Yates shuffle: the same on every platform, and without the bias of a remainder. */
export const permutation = (length: number, label: string): Uint32Array => {
  const next = randomStream(label)
  const order = Uint32Array.from({ length }, (_, i) => i)
  for (let i = length - 1; i > 0; i--) {
    const bound = i + 1
    const limit = 0x1_0000_0000 - (0x1_0000_0000 % bound)
    let draw = next()
    while (draw >= limit) draw = next()
    const j = draw % bound
    const kept = order[i]!
    order[i] = order[j]!
    order[j] = kept
  }
  return order
}
