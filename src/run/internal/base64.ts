/** Typed arrays as base64 of their little-endian bytes: about a tenth of what JSON's numbers take. */
import * as Schema from "effect/Schema"
import * as SchemaTransformation from "effect/SchemaTransformation"

type Typed = Uint32Array | Float32Array | Float64Array

interface Constructor<A extends Typed> {
  readonly BYTES_PER_ELEMENT: number
  new (buffer: ArrayBuffer): A
}

const bigEndian = new Uint8Array(Uint32Array.of(1).buffer)[0] === 0

/** A copy of the bytes, which begins a buffer of its own; in the other byte order on big-endian machines. */
const copied = (bytes: Uint8Array, width: number): Uint8Array<ArrayBuffer> => {
  const copy = new Uint8Array(bytes.length)
  copy.set(bytes)
  if (bigEndian) {
    for (let start = 0; start < copy.length; start += width) copy.subarray(start, start + width).reverse()
  }
  return copy
}

const codec = <A extends Typed>(type: Constructor<A>) => {
  const width = type.BYTES_PER_ELEMENT
  return Schema.Uint8ArrayFromBase64.check(
    Schema.makeFilter((bytes) => bytes.length % width === 0 || `${bytes.length} bytes; expected a multiple of ${width}`)
  ).pipe(
    Schema.decodeTo(
      Schema.instanceOf(type),
      SchemaTransformation.transform({
        decode: (bytes) => new type(copied(bytes, width).buffer),
        encode: (array: A): Uint8Array =>
          copied(new Uint8Array(array.buffer, array.byteOffset, array.byteLength), width)
      })
    )
  )
}

export const Uint8 = Schema.Uint8ArrayFromBase64
export const Uint32 = codec<Uint32Array>(Uint32Array)
export const Float32 = codec<Float32Array>(Float32Array)
export const Float64 = codec<Float64Array>(Float64Array)
