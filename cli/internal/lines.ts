/** Lines of a file of any size, each bounded. */
import { createReadStream } from "node:fs"

export interface Line {
  /** From 1. */
  readonly number: number
  /** Without its end; absent when it is longer than the limit. */
  readonly bytes: Buffer | undefined
  /** Offset after the line and its end. */
  readonly end: number
  /** Whether a line feed ends it; only the last may lack one. */
  readonly whole: boolean
}

/** Longest line that is read. Bytes. */
export const maxLine = 2 ** 25

const lineFeed = 10

export async function* lines(path: string): AsyncGenerator<Line> {
  let parts: Array<Buffer> = []
  let length = 0
  let number = 1
  let end = 0
  const take = (whole: boolean): Line => {
    const bytes = length > maxLine ? undefined : parts.length === 1 ? parts[0]! : Buffer.concat(parts)
    parts = []
    length = 0
    return { number: number++, bytes, end, whole }
  }
  const add = (part: Buffer): void => {
    length += part.length
    end += part.length
    if (length <= maxLine) parts.push(part)
    else parts = []
  }
  for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 18 }) as AsyncIterable<Buffer>) {
    let start = 0
    for (;;) {
      const at = chunk.indexOf(lineFeed, start)
      if (at < 0) break
      add(chunk.subarray(start, at))
      end++
      yield take(true)
      start = at + 1
    }
    if (start < chunk.length) add(chunk.subarray(start))
  }
  if (length > 0) yield take(false)
}

const decoder = new TextDecoder("utf-8", { fatal: true })

/** The line as text, or why it is none. */
export const textOf = ({ bytes }: Line): { readonly text: string } | { readonly fault: string } => {
  if (bytes === undefined) return { fault: `longer than ${maxLine} bytes` }
  try {
    return { text: decoder.decode(bytes) }
  } catch {
    return { fault: "not UTF-8" }
  }
}
