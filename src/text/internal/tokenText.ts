/** Converts token ids to text: the bytes of each token, and the decoders of tokenizer files. */
import type { TextStream } from "../Tokenizer.ts"

/** The effect of a `decoder` on the spellings in the vocabulary. */
export type Decoder =
  /** Each character stands for a byte, as GPT-2 writes them. */
  | { readonly kind: "byteLevel" }
  | {
      readonly kind: "pieces"
      /** Applied to each token, in turn. */
      readonly replace: ReadonlyArray<readonly [from: string, to: string]>
      /** `<0x0A>` stands for a byte. */
      readonly byteFallback: boolean
      /** Spaces dropped at the beginning of a text. */
      readonly strip: number
      /** Text that is removed from a text's first token, wherever it occurs there. */
      readonly dropInFirst: string | undefined
    }

const encoder = new TextEncoder()

/** The character that GPT-2's vocabulary writes for each byte. */
export const BYTE_CHARACTERS: ReadonlyArray<string> = (() => {
  const printable = (byte: number) => (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
  let other = 256
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : other++))
})()
const CHARACTER_BYTES = new Map(BYTE_CHARACTERS.map((character, byte) => [character, byte]))

/** The bytes that a spelling of the vocabulary stands for. */
export const spelledBytes = (decoder: Decoder, spelling: string, first = false): Uint8Array => {
  if (decoder.kind === "byteLevel") {
    const bytes = new Uint8Array(spelling.length)
    for (let i = 0; i < spelling.length; i++) {
      const byte = CHARACTER_BYTES.get(spelling.charAt(i))
      // An added token, written as it is.
      if (byte === undefined) return encoder.encode(spelling)
      bytes[i] = byte
    }
    return bytes
  }
  let text = spelling
  if (first && decoder.dropInFirst !== undefined) text = text.replaceAll(decoder.dropInFirst, "")
  for (const [from, to] of decoder.replace) text = text.replaceAll(from, to)
  const byte = decoder.byteFallback ? /^<0x([0-9A-Fa-f]{2})>$/.exec(text)?.[1] : undefined
  return byte === undefined ? encoder.encode(text) : Uint8Array.of(Number.parseInt(byte, 16))
}

const empty = new Uint8Array()
const REPLACEMENT = encoder.encode("\uFFFD")

export interface TokenText {
  readonly bytes: (token: number) => Uint8Array
  readonly decode: (tokens: ArrayLike<number>) => string
  readonly stream: () => TextStream
}

/**
 * Decodes tokens of a vocabulary. `spellings[id]` is `undefined` for ids without a token, which read as U+FFFD. Ids in
 * `special` have no text. Bytes that form no character read as U+FFFD, one for each maximal part of a character. The
 * characters around them stay as they are.
 */
export const tokenText = (
  decoder: Decoder,
  spellings: ReadonlyArray<string | undefined>,
  special: ReadonlySet<number>
): TokenText => {
  const offsets = new Uint32Array(spellings.length + 1)
  const parts: Array<Uint8Array> = []
  for (const [id, spelling] of spellings.entries()) {
    const part = special.has(id) ? empty : spelling === undefined ? REPLACEMENT : spelledBytes(decoder, spelling)
    parts.push(part)
    offsets[id + 1] = offsets[id]! + part.length
  }
  const all = new Uint8Array(offsets[spellings.length]!)
  for (const [id, part] of parts.entries()) all.set(part, offsets[id])

  const bytes = (token: number): Uint8Array =>
    token < spellings.length ? all.subarray(offsets[token], offsets[token + 1]) : REPLACEMENT

  const stream = (): TextStream => {
    const utf8 = new TextDecoder("utf-8", { ignoreBOM: true })
    let strip = decoder.kind === "pieces" ? decoder.strip : 0
    let first = decoder.kind === "pieces" && decoder.dropInFirst !== undefined
    const stripped = (text: string): string => {
      if (strip === 0 || text === "") return text
      let from = 0
      while (strip > 0 && text.charAt(from) === " ") {
        from += 1
        strip -= 1
      }
      if (from < text.length) strip = 0
      return text.slice(from)
    }
    return {
      push: (token) => {
        if (special.has(token)) return ""
        const spelling = first ? spellings[token] : undefined
        const part = spelling === undefined ? bytes(token) : spelledBytes(decoder, spelling, true)
        first = false
        return stripped(utf8.decode(part, { stream: true }))
      },
      end: () => stripped(utf8.decode())
    }
  }

  return {
    bytes,
    stream,
    decode: (tokens) => {
      const { end, push } = stream()
      let text = ""
      for (let i = 0; i < tokens.length; i++) text += push(tokens[i]!)
      return text + end()
    }
  }
}
