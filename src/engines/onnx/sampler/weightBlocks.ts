/** Matrices in blocks of few bits, in the form of the operator MatMulNBits. */
import type { BlockTensor } from "../../internal/nativeModel.ts"

/** [outputs, inputs]; a weight is (code - {@link zeroOf}) * scale + offset. */
export interface BlockWeight {
  readonly bits: 4 | 8
  /** Number of neighbours in a row that share a scale. */
  readonly size: number
  readonly outputs: number
  readonly inputs: number
  /** [outputs, blocks, size * bits / 8]; with 4 bits the even neighbour is the lower half of a byte. */
  readonly codes: Uint8Array
  /** [outputs, blocks] */
  readonly scales: Float32Array
  /** [outputs, blocks]; null: all zero. */
  readonly offsets: Float32Array | null
}

/** The operator's default code for zero, with which it is fastest. */
const zeroOf = (bits: 4 | 8): number => (bits === 8 ? 128 : 8)

/** Packs blocks that a store already holds. */
export const pack = ({ codes, group, kind, offsets, scales, shape, zero }: BlockTensor): BlockWeight => {
  const [outputs, inputs] = shape as readonly [number, number]
  const bits = kind.startsWith("Q4") ? 4 : 8
  const moved = zeroOf(bits) - zero
  return {
    bits,
    size: group,
    outputs,
    inputs,
    codes: bits === 8 ? codes : nibbles(codes),
    scales,
    offsets: moved === 0 ? offsets : scales.map((scale, i) => (offsets?.[i] ?? 0) + moved * scale)
  }
}

const nibbles = (codes: Uint8Array): Uint8Array => {
  const packed = new Uint8Array(codes.length / 2)
  for (let i = 0; i < packed.length; i++) packed[i] = codes[2 * i]! | (codes[2 * i + 1]! << 4)
  return packed
}

const SIZE = 32

/**
 * Quantises by ggml's rules, in blocks of 32. Q8_0 maps the largest magnitude to 127; Q4_0 maps the number of the
 * largest magnitude to -8. A row that does not divide into blocks ends with zeros.
 */
export const quantise = (values: Float32Array, shape: ReadonlyArray<number>, bits: 4 | 8): BlockWeight => {
  const [outputs, inputs] = shape as readonly [number, number]
  const blocks = Math.ceil(inputs / SIZE)
  const zero = zeroOf(bits)
  const codes = new Uint8Array(outputs * blocks * SIZE).fill(zero)
  const scales = new Float32Array(outputs * blocks)
  for (let row = 0; row < outputs; row++) {
    for (let block = 0; block < blocks; block++) {
      const start = row * inputs + block * SIZE
      const end = Math.min(start + SIZE, (row + 1) * inputs)
      let [largest, magnitude] = [0, 0]
      for (let i = start; i < end; i++) {
        const size = Math.abs(values[i]!)
        if (size > magnitude) [largest, magnitude] = [values[i]!, size]
      }
      const scale = bits === 8 ? magnitude / 127 : largest / -8
      const inverse = scale === 0 ? 0 : 1 / scale
      const at = row * blocks + block
      scales[at] = roundToHalf(scale)
      for (let i = start; i < end; i++) {
        const scaled = values[i]! * inverse
        codes[at * SIZE + i - start] =
          bits === 8
            ? zero + (scaled < 0 ? -Math.floor(0.5 - scaled) : Math.floor(scaled + 0.5))
            : Math.min(15, Math.floor(scaled + 8.5))
      }
    }
  }
  return {
    bits,
    size: SIZE,
    outputs,
    inputs,
    codes: bits === 8 ? codes : nibbles(codes),
    scales,
    offsets: null
  }
}

const half = new Float16Array(1)
/** ggml stores scales in 16 bits. */
const roundToHalf = (scale: number): number => {
  half[0] = scale
  return half[0]
}
