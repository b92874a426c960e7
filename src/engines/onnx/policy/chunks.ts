/**
 * Cuts token trees into chunks that are computed one after the other. Each chunk holds whole paths from a root, so
 * attention needs nothing from outside, and has a bounded number of tokens. A prompt with many completions is computed
 * once per chunk.
 */
import type { Forest } from "../../../engine/Policy.ts"
import { EngineFailure } from "../worker/failure.ts"
import type { Shape } from "../graph/network.ts"

/** Shapes: t rows (padding included), r rows that predict something, n targets. */
export interface Chunk {
  /** [t] */
  readonly tokens: BigInt64Array
  /** [t] depth of each row in its tree. */
  readonly positions: Uint32Array
  /** [t, t] 0 where a row sees another, else {@link hidden}. */
  readonly mask: Float32Array
  /** [r] rows of the chunk with a target, ascending. */
  readonly rows: BigInt64Array
  /** [n, 2] index into `rows`, and the token; each pair once, rows ascending. */
  readonly targets: BigInt64Array
  /** Indexes of the forest's targets, and the pair of each: two targets may have the same pair. */
  readonly members: Uint32Array
  readonly pair: Uint32Array
  /** Index into `rows` of each of `members`. */
  readonly row: Uint32Array
}

/** Added to a score that must not count: its probability becomes exactly 0. */
const hidden = -1e9

/**
 * Rows of a graph with room for `rows`. There are few sizes, since each needs its own graphs, and at most an eighth is
 * padding.
 */
export const bucket = (rows: number): number => {
  const unit = Math.max(16, 2 ** (Math.ceil(Math.log2(rows)) - 4))
  return Math.ceil(rows / unit) * unit
}

const refuse = (detail: string): EngineFailure => new EngineFailure("SHAPE", `forward: ${detail}`)

/**
 * Computes the depth of each segment in its tree. Throws `SHAPE` for an invalid forest, or one that does not fit the
 * model.
 */
const depthsOf = ({ segmentLength, segmentParent, segmentStart, ...forest }: Forest, shape: Shape): Uint32Array => {
  const { targetPosition, targetToken, tokens } = forest
  const segments = segmentStart.length
  if (segmentLength.length !== segments || segmentParent.length !== segments) {
    throw refuse(`${segments} segment starts, ${segmentLength.length} lengths and ${segmentParent.length} parents`)
  }
  if (targetPosition.length !== targetToken.length) {
    throw refuse(`${targetPosition.length} target positions for ${targetToken.length} target tokens`)
  }
  const depths = new Uint32Array(segments)
  let end = 0
  for (let s = 0; s < segments; s++) {
    const length = segmentLength[s]!
    const parent = segmentParent[s]!
    if (length === 0 || segmentStart[s] !== end) throw refuse(`segment ${s} is empty, or leaves a gap at ${end}`)
    if (parent < -1 || parent >= s) throw refuse(`segment ${s} has parent ${parent}: give an earlier segment, or -1`)
    depths[s] = parent === -1 ? 0 : depths[parent]! + segmentLength[parent]!
    end += length
    if (depths[s]! + length > shape.context) {
      throw refuse(`a path of ${depths[s]! + length} tokens, max_position_embeddings ${shape.context}`)
    }
  }
  if (end !== tokens.length || end === 0) throw refuse(`${tokens.length} tokens, but the segments cover ${end}`)
  for (const [name, values, limit] of [
    ["token", tokens, shape.vocabulary],
    ["target token", targetToken, shape.vocabulary],
    ["target position", targetPosition, tokens.length]
  ] as const) {
    const at = values.findIndex((value) => value >= limit)
    if (at !== -1) throw refuse(`${name} ${values[at]} at ${at} is not below ${limit}`)
  }
  return depths
}

/**
 * Cuts a forest into chunks of at most `limit` tokens, unless a single path is longer. Without targets there are none.
 *
 * A chunk takes another tree only up to `enough` tokens, because rows of different trees are compared for nothing. A
 * tree that is cut has its shared prompt computed again.
 */
export const chunksOf = (forest: Forest, shape: Shape, limit: number, enough = limit): ReadonlyArray<Chunk> => {
  const depths = depthsOf(forest, shape)
  const { segmentLength, segmentParent, segmentStart, targetPosition } = forest
  const targets: Array<Array<number>> = Array.from(segmentStart, () => [])
  // Ends of segments ascend: the segment of a position is found by bisection.
  for (let n = 0; n < targetPosition.length; n++) {
    let [low, high] = [0, segmentStart.length - 1]
    while (low < high) {
      const middle = (low + high + 1) >> 1
      if (segmentStart[middle]! <= targetPosition[n]!) low = middle
      else high = middle - 1
    }
    targets[low]!.push(n)
  }
  const chunks: Array<Chunk> = []
  let segments = new Set<number>()
  let members: Array<number> = []
  let size = 0
  let tree = -1
  const flush = () => {
    if (members.length > 0)
      chunks.push(
        build(
          forest,
          depths,
          [...segments].toSorted((a, b) => a - b),
          members
        )
      )
    ;[segments, members, size] = [new Set(), [], 0]
  }
  for (const [s, own] of targets.entries()) {
    if (own.length === 0) continue
    const path: Array<number> = []
    for (let at = s; at !== -1; at = segmentParent[at]!) path.push(at)
    const added = () => path.reduce((sum, at) => sum + (segments.has(at) ? 0 : segmentLength[at]!), 0)
    const room = path.at(-1) === tree ? limit : Math.min(limit, enough)
    if (size + added() > room) flush()
    size += added()
    tree = path.at(-1)!
    for (const at of path) segments.add(at)
    members.push(...own)
  }
  flush()
  return chunks
}

const build = (
  { segmentLength, segmentParent, segmentStart, targetPosition, targetToken, tokens }: Forest,
  depths: Uint32Array,
  segments: ReadonlyArray<number>,
  members: ReadonlyArray<number>
): Chunk => {
  const starts = new Map<number, number>()
  let size = 0
  for (const s of segments) {
    starts.set(s, size)
    size += segmentLength[s]!
  }
  const padded = bucket(size)
  const own = new BigInt64Array(padded)
  const positions = new Uint32Array(padded)
  const mask = new Float32Array(padded * padded).fill(hidden)
  const rowOf = new Map<number, number>()
  for (const s of segments) {
    const start = starts.get(s)!
    const length = segmentLength[s]!
    for (let i = 0; i < length; i++) {
      const row = start + i
      own[row] = BigInt(tokens[segmentStart[s]! + i]!)
      positions[row] = depths[s]! + i
      rowOf.set(segmentStart[s]! + i, row)
      const seen = mask.subarray(row * padded, (row + 1) * padded)
      seen.fill(0, start, row + 1)
      for (let at = segmentParent[s]!; at !== -1; at = segmentParent[at]!) {
        seen.fill(0, starts.get(at)!, starts.get(at)! + segmentLength[at]!)
      }
    }
  }
  // A row of padding attends to itself: a softmax over nothing would be NaN.
  for (let row = size; row < padded; row++) mask[row * padded + row] = 0

  const rowOfTarget = (n: number) => rowOf.get(targetPosition[n]!)!
  const ordered = members.toSorted((a, b) => rowOfTarget(a) - rowOfTarget(b))
  const rows = [...new Set(ordered.map(rowOfTarget))]
  const place = new Map(rows.map((row, i) => [row, i]))
  const pairs = new Map<string, number>()
  const flat: Array<bigint> = []
  const pair = new Uint32Array(members.length)
  const row = new Uint32Array(members.length)
  for (const [i, n] of ordered.entries()) {
    row[i] = place.get(rowOfTarget(n))!
    const key = `${row[i]} ${targetToken[n]}`
    let index = pairs.get(key)
    if (index === undefined) {
      index = pairs.size
      pairs.set(key, index)
      flat.push(BigInt(row[i]!), BigInt(targetToken[n]!))
    }
    pair[i] = index
  }
  return {
    tokens: own,
    positions,
    mask,
    rows: BigInt64Array.from(rows, BigInt),
    targets: BigInt64Array.from(flat),
    members: Uint32Array.from(ordered),
    pair,
    row
  }
}
