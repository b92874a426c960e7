/** Token strings as a tree of segments: a common prefix is held once, if its owners are the same. */
import type { Forest } from "../../engine/Forest.ts"

interface Node {
  tokens: Uint32Array
  readonly owner: number
  children: Array<Node>
  /** Position in the forest; set by {@link PrefixTree.layout}. */
  start: number
}

/** Tokens of anybody: every owner may share them. */
export const SHARED = -1

const agree = (a: Uint32Array, b: Uint32Array): number => {
  const most = Math.min(a.length, b.length)
  let length = 0
  while (length < most && a[length] === b[length]) length++
  return length
}

export class PrefixTree {
  readonly #roots: Array<Node> = []
  #size = 0

  /** Tokens held. */
  get size(): number {
    return this.#size
  }

  /** Adds a string. It shares prefixes with strings of its own owner and with those that are {@link SHARED}. */
  insert(tokens: Uint32Array, owner: number): void {
    let siblings = this.#roots
    let rest = tokens
    while (rest.length > 0) {
      const node = PrefixTree.#next(siblings, rest[0]!, owner)
      if (node === undefined) {
        siblings.push({ tokens: rest, owner, children: [], start: 0 })
        this.#size += rest.length
        return
      }
      const common = agree(node.tokens, rest)
      // A segment that ends where nothing branches goes on, but what is shared never grows by what one owner adds.
      if (common === node.tokens.length && common < rest.length && node.children.length === 0 && node.owner === owner) {
        this.#size += rest.length - common
        node.tokens = rest
        return
      }
      if (common < node.tokens.length && common < rest.length) PrefixTree.#split(node, common)
      rest = rest.subarray(common)
      siblings = node.children
    }
  }

  static #next(siblings: ReadonlyArray<Node>, token: number, owner: number): Node | undefined {
    return siblings.find((node) => node.tokens[0] === token && (node.owner === owner || node.owner === SHARED))
  }

  static #split(node: Node, at: number): void {
    const tail = { tokens: node.tokens.subarray(at), owner: node.owner, children: node.children, start: 0 }
    node.tokens = node.tokens.subarray(0, at)
    node.children = [tail]
  }

  /** Appends the segments to a forest, parents first, siblings in the order in which they were added. */
  layout(into: ForestBuilder): void {
    const pending = this.#roots.map((node) => ({ node, parent: -1 })).toReversed()
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      const { node, parent } = next
      node.start = into.length
      const segment = into.append(node.tokens, parent)
      for (const child of node.children.toReversed()) pending.push({ node: child, parent: segment })
    }
  }

  /** Forest position of each token of a string that was added, after {@link PrefixTree.layout}. */
  positions(tokens: Uint32Array, owner: number): Uint32Array {
    const positions = new Uint32Array(tokens.length)
    let siblings: ReadonlyArray<Node> = this.#roots
    for (let at = 0; at < tokens.length;) {
      const node = PrefixTree.#next(siblings, tokens[at]!, owner)!
      const length = Math.min(node.tokens.length, tokens.length - at)
      for (let i = 0; i < length; i++) positions[at + i] = node.start + i
      at += length
      siblings = node.children
    }
    return positions
  }
}

/** Collects the segments of a forest. */
export class ForestBuilder {
  readonly #parts: Array<Uint32Array> = []
  readonly #start: Array<number> = []
  readonly #parent: Array<number> = []
  #length = 0

  get length(): number {
    return this.#length
  }

  /** Index of the new segment. */
  append(tokens: Uint32Array, parent: number): number {
    this.#start.push(this.#length)
    this.#parent.push(parent)
    this.#length += tokens.length
    return this.#parts.push(tokens) - 1
  }

  finish(targetPosition: Uint32Array, targetToken: Uint32Array): Forest {
    const tokens = new Uint32Array(this.#length)
    this.#parts.forEach((part, s) => tokens.set(part, this.#start[s]!))
    return {
      tokens,
      segmentStart: Uint32Array.from(this.#start),
      segmentLength: Uint32Array.from(this.#parts, ({ length }) => length),
      segmentParent: Int32Array.from(this.#parent),
      targetPosition,
      targetToken
    }
  }
}
