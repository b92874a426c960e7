const encoder = new TextEncoder()

/** FNV-1a, 64 bits: names a random stream by its text. Do not use it for text that an adversary chooses. */
export const hash64 = (text: string): bigint => {
  let hash = 0xcbf29ce484222325n
  for (const byte of encoder.encode(text)) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n)
  }
  return hash
}
