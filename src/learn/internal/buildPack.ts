/** The arrays of one pack. */
import type { Total } from "../lossContract.ts"
import type { Pack, PackGroup } from "../packContract.ts"
import { grow, type Item } from "./packItem.ts"
import { ForestBuilder, PrefixTree, SHARED } from "./prefixTree.ts"

export interface Common {
  /** Weight of each target of a sequence with `n` of them. */
  readonly weigh: (n: number) => number
  readonly columns: ReadonlyArray<string>
  readonly total: Total
}

/** A tree that holds the prompt of a group. */
export const promptTree = ({ prompt }: PackGroup): PrefixTree => {
  const tree = new PrefixTree()
  tree.insert(prompt, SHARED)
  return tree
}

/** Segments of the items' groups, and forest position of the predecessor of each target. */
const layout = (groups: ReadonlyArray<PackGroup>, items: ReadonlyArray<Item>, forest: ForestBuilder): Uint32Array => {
  const targetPosition: Array<number> = []
  for (let first = 0; first < items.length;) {
    const { group } = items[first]!
    const tree = promptTree(groups[group]!)
    let end = first
    for (; items[end]?.group === group; end++) grow(tree, items[end]!)
    tree.layout(forest)
    for (; first < end; first++) {
      const { branch, owner, position, strings } = items[first]!
      const places = strings.map((string) => tree.positions(string, owner))
      for (const [n, at] of branch.entries()) targetPosition.push(places[at]![position[n]! - 1]!)
    }
  }
  return Uint32Array.from(targetPosition)
}

const sequenceOf = ({ index: group }: PackGroup, { group: at, sequence, source }: Item) => ({
  group: group ?? at,
  index: source.index ?? sequence,
  ...(source.label === undefined ? {} : { label: source.label }),
  ...(source.numbers === undefined ? {} : { numbers: source.numbers })
})

export const buildPack = (groups: ReadonlyArray<PackGroup>, items: ReadonlyArray<Item>, common: Common): Pack => {
  const forest = new ForestBuilder()
  const targetPosition = layout(groups, items, forest)
  const targetToken = new Uint32Array(targetPosition.length)
  const advantages = new Float64Array(targetPosition.length)
  const samplerLogprobs = new Float32Array(targetPosition.length).fill(NaN)
  const weights = new Float64Array(targetPosition.length)
  const columns = Object.fromEntries(common.columns.map((name) => [name, new Float64Array(targetPosition.length)]))
  const sequenceStart = new Uint32Array(items.length + 1)
  let n = 0
  for (const [q, { source, token }] of items.entries()) {
    const end = n + token.length
    targetToken.set(token, n)
    if (typeof source.advantage === "number") advantages.fill(source.advantage, n, end)
    else advantages.set(source.advantage, n)
    if (source.samplerLogprobs !== undefined) samplerLogprobs.set(source.samplerLogprobs, n)
    weights.fill(common.weigh(token.length), n, end)
    if (end > n) for (const name of common.columns) columns[name]!.set(source.columns![name]!, n)
    sequenceStart[q + 1] = n = end
  }
  return {
    forest: forest.finish(targetPosition, targetToken),
    advantages,
    samplerLogprobs,
    weights,
    columns,
    sequenceStart,
    sequences: items.map((item) => sequenceOf(groups[item.group]!, item)),
    total: common.total
  }
}
