/**
 * Draws tokens inside a graph, and computes their log-probabilities. A draw inverts the cumulative distribution in the
 * order of the vocabulary, at one uniform number per row, or takes the largest logit.
 *
 * The cumulative sum has two levels, blocks of the vocabulary and tokens of a block. That is less work than one sum
 * over the vocabulary, and more exact: f32 sums of some hundred numbers instead of 50,000.
 */
import { type Dim, type Graph, type Value } from "../graph/graph.ts"

export interface Drawn {
  /** [rows, 1], whole numbers below 2^24 in f32. */
  readonly token: Value
  /** [rows, 1]. Not finite if the logits are not. */
  readonly logprob: Value
}

/** Returns a divisor of the vocabulary near 256, if there is one; a small vocabulary is one block. */
const blockOf = (vocabulary: number): number => {
  if (vocabulary <= 1024) return vocabulary
  const candidates = Array.from({ length: 961 }, (_, i) => 64 + i).filter((size) => vocabulary % size === 0)
  return candidates.toSorted((a, b) => Math.abs(Math.log(a / 256)) - Math.abs(Math.log(b / 256)))[0] ?? 256
}

/** Value of the last block's padding. */
const NEVER = -1e30

/**
 * `logits` are already tempered. Inputs for each row: `uniform` [rows, 1], `greedy` [rows, 1] (bool) and `first` [rows,
 * 1] (int32). `first` is the number of the row's first block, counted over all rows: 0, blocks, 2 blocks, ...
 */
export const draw = (graph: Graph, logits: Value, rows: Dim): Drawn => {
  const vocabulary = logits.shape[1] as number
  const size = blockOf(vocabulary)
  const blocks = Math.ceil(vocabulary / size)
  const uniform = graph.input("uniform", [rows, 1])
  const greedy = graph.input("greedy", [rows, 1], "bool")
  const first = graph.input("first", [rows, 1], "int32")

  const padded = pad(graph, logits, blocks * size)
  const logitBlocks = graph.reshape(padded, [rows, blocks, size])
  const shares = graph.softmax(padded)
  const shareBlocks = graph.reshape(shares, [rows, blocks, size])

  const sums = graph.cumulate(graph.sum(shareBlocks, [2], false))
  const total = graph.reduce("ReduceMax", sums)
  const target = graph.mul(uniform, total)
  const below = graph.cast(graph.compare("LessOrEqual", sums, target), "float32")
  const before = graph.reduce("ReduceMax", graph.mul(sums, below))
  const largest = graph.reduce("ReduceMax", logitBlocks)
  const blockMaxima = graph.reshape(largest, [rows, blocks])
  const maximum = graph.reduce("ReduceMax", blockMaxima)
  const block = graph.where(greedy, firstAtLeast(graph, blockMaxima, maximum), graph.reduce("ReduceSum", below))

  const pick = graph.reshape(graph.add(graph.cast(block, "int32"), first), [rows])
  const cells = `${rows} x ${blocks}`
  const [share, logit] = [shares, padded].map((x) => graph.gather(graph.reshape(x, [cells, size]), pick)) as [
    Value,
    Value
  ]
  const ids = iota(graph, size)
  const within = graph.compare("LessOrEqual", graph.cumulate(share), graph.sub(target, before))
  const zero = graph.scalar(0)
  const possible = graph.reduce("ReduceMax", graph.where(graph.compare("Greater", share, zero), ids, zero))
  const counted = graph.reduce("ReduceSum", graph.cast(within, "float32"))
  // The block's own sum and its cumulative sum round differently, so there may be no token beyond the target.
  const drawn = graph.binary("Min", counted, possible)
  const offset = graph.where(greedy, firstAtLeast(graph, logit, maximum), drawn)
  const chosen = graph.compare("Equal", graph.cast(ids, "int32"), graph.cast(offset, "int32"))
  const probability = graph.reduce("ReduceSum", graph.where(chosen, share, zero))
  return {
    token: graph.add(graph.scale(block, size), offset),
    logprob: graph.unary("Log", graph.binary("Div", probability, total))
  }
}

/** Number of blocks in a row of logits; `first` counts them. */
export const blocksOf = (vocabulary: number): number => Math.ceil(vocabulary / blockOf(vocabulary))

const iota = (graph: Graph, size: number): Value =>
  graph.constant(
    Float32Array.from({ length: size }, (_, i) => i),
    [1, size]
  )

/** Returns the first place of a row whose number reaches a bound; 0 if none does, for NaN. */
const firstAtLeast = (graph: Graph, x: Value, bound: Value): Value => {
  const size = x.shape[1] as number
  const reaches = graph.compare("GreaterOrEqual", x, bound)
  const left = graph.constant(
    Float32Array.from({ length: size }, (_, i) => size - i),
    [1, size]
  )
  const most = graph.reduce("ReduceMax", graph.where(reaches, left, graph.scalar(0)))
  const place = graph.sub(graph.scalar(size), most)
  return graph.where(graph.compare("Less", place, graph.scalar(size)), place, graph.scalar(0))
}

const pad = (graph: Graph, x: Value, size: number): Value => {
  const [rows, present] = x.shape as [Dim, number]
  const missing = size - present
  if (missing === 0) return x
  const pads = graph.integers([0, 0, 0, missing])
  return graph.op("Pad", [x, pads, graph.scalar(NEVER)], [[rows, size]])[0]!
}
