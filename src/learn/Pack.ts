/**
 * One forward and backward as data: a forest of token segments with its targets, and for each target what a loss
 * needs. Aggregation is folded into `weights`, so a loss is a plain sum over targets and the gradient of a batch does not
 * depend on how it is cut into packs.
 */
import { buildPack, type Common, promptTree } from "./internal/buildPack.ts"
import { grow, type Item, itemOf, refuse } from "./internal/packItem.ts"
import type { Aggregate, Pack, PackGroup, PackOptions } from "./packContract.ts"

export type { Aggregate, Fork, Pack, PackGroup, PackOptions, PackSequence, Targets } from "./packContract.ts"

const weigher = (aggregate: Aggregate, sequences: number, targets: number): ((n: number) => number) => {
  if (aggregate === "token") return () => 1 / targets
  if (aggregate === "sequence") return (n) => 1 / (sequences * n)
  if (aggregate === "sum") return () => 1
  const { constant } = aggregate
  if (!(constant > 0)) {
    refuse("aggregate.constant", constant, "a number above 0", "Give the longest completion in tokens")
  }
  return () => 1 / (sequences * constant)
}

/** Names of the columns, which all sequences with targets must have. */
const columnsOf = (items: ReadonlyArray<Item>): ReadonlyArray<string> => {
  const trained = items.filter(({ token }) => token.length > 0)
  const namesOf = (item: Item | undefined) => Object.keys(item?.source.columns ?? {}).toSorted()
  const names = namesOf(trained[0])
  for (const item of trained) {
    const own = namesOf(item)
    if (own.join("\n") !== names.join("\n")) {
      refuse(
        `sequence ${item.sequence} of group ${item.group}, columns`,
        own,
        `[${names.join(", ")}], those of the first sequence`,
        "Give every sequence the same columns"
      )
    }
  }
  return names
}

const checkTemperatures = (groups: ReadonlyArray<PackGroup>): void => {
  const all = new Set(groups.flatMap(({ sequences }) => sequences.flatMap(({ temperatures = [] }) => temperatures)))
  if (all.size > 1) {
    refuse("temperature", Array.from(all).join(" and "), "one for all turns", "Sample a batch at one temperature")
  }
}

/** Collects items into packs of at most `maxTokens`. */
const packer = (groups: ReadonlyArray<PackGroup>, maxTokens: number, common: Common) => {
  const packs: Array<Pack> = []
  let pending: Array<Item> = []
  let size = 0
  const flush = () => {
    if (pending.length > 0) packs.push(buildPack(groups, pending, common))
    pending = []
    size = 0
  }
  const sizeOf = (group: number, items: ReadonlyArray<Item>): number => {
    const tree = promptTree(groups[group]!)
    for (const item of items) grow(tree, item)
    return tree.size
  }
  return {
    packs,
    flush,
    /** All of a group in one pack. */
    whole: (group: number, items: ReadonlyArray<Item>): number => {
      const own = sizeOf(group, items)
      if (size + own > maxTokens) flush()
      pending.push(...items)
      return (size += own)
    },
    /** A group in several packs if it is larger than a pack by itself; its prompt then is repeated. */
    cut: (group: number, items: ReadonlyArray<Item>) => {
      // Rather a new pack than this group's prompt twice.
      if (size + sizeOf(group, items) > maxTokens) flush()
      let tree = promptTree(groups[group]!)
      let own = 0
      for (const item of items) {
        grow(tree, item)
        if (size - own + tree.size > maxTokens && pending.length > 0) {
          flush()
          tree = promptTree(groups[group]!)
          own = 0
          grow(tree, item)
        }
        size += tree.size - own
        own = tree.size
        pending.push(item)
      }
    }
  }
}

/**
 * Packs groups in their order. `unit` says what is never cut. A sequence that is not in a unit with others and has no
 * target takes no room, but counts in B. A group without any target is left out. The weights are those of all groups
 * together: cutting into packs changes no gradient, splitting `groups` over several calls does.
 *
 * @throws OptionError if a target has nothing that predicts it, arrays differ in length, sequences differ in temperature or
 * columns, or a `batch` exceeds `maxTokens`.
 *
 * @example
 * ```ts
 * const sequence = { tokens: Uint32Array.of(7, 8, 9), target: [1, 1, 1], advantage: 0.7 }
 * const packs = Pack.pack([{ prompt: Uint32Array.of(1, 2), sequences: [sequence] }], { aggregate: "token" })
 * ```
 */
export const pack = (groups: ReadonlyArray<PackGroup>, options: PackOptions): ReadonlyArray<Pack> => {
  const { aggregate, maxTokens = Infinity, sharePrefixes = false, unit = "sequence" } = options
  checkTemperatures(groups)
  const all = groups.map(({ sequences }, group) => sequences.map((_, i) => itemOf(groups, group, i, sharePrefixes)))
  const flat = all.flat()
  const total = {
    groups: groups.length,
    sequences: flat.length,
    targets: flat.reduce((sum, { token }) => sum + token.length, 0)
  }
  const { cut, flush, packs, whole } = packer(groups, unit === "batch" ? Infinity : maxTokens, {
    weigh: weigher(aggregate, total.sequences, total.targets),
    columns: columnsOf(flat),
    total
  })
  let size = 0
  for (const [group, items] of all.entries()) {
    const trained = items.filter(({ token }) => token.length > 0)
    if (unit === "sequence") cut(group, trained)
    else if (trained.length > 0) size = whole(group, items)
  }
  if (unit === "batch" && size > maxTokens) {
    const expected = `at least ${size}, the tokens of a batch that must not be cut`
    refuse("maxTokens", maxTokens, expected, "Raise maxTokens or draw fewer groups")
  }
  flush()
  return packs
}
