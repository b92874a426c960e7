/** A sequence as the packer sees it: strings to compute and the targets that they predict. */
import { OptionError } from "../../OptionError.ts"
import type { PackGroup, PackSequence, Targets } from "../packContract.ts"
import { type PrefixTree, SHARED } from "./prefixTree.ts"

export interface Item {
  /** Index of its group among those packed. */
  readonly group: number
  readonly sequence: number
  readonly source: PackSequence
  /** Whole string of each branch, up to the predecessor of its last target; empty if it has no target. */
  readonly strings: ReadonlyArray<Uint32Array>
  /** [n] branch of each target. */
  readonly branch: Uint32Array
  /** [n] place of each target in its branch's whole string, at least 1. */
  readonly position: Uint32Array
  /** [n] */
  readonly token: Uint32Array
  /** The owner whose prefixes it shares. */
  readonly owner: number
}

export const refuse = (option: string, value: unknown, expected: string, remedy: string): never => {
  throw new OptionError({ module: "Pack.pack", option, value, expected, remedy })
}

const masked = ({ target, tokens }: PackSequence): Targets => {
  if ("position" in target) return target
  const position = new Uint32Array(tokens.length)
  let n = 0
  for (let i = 0; i < tokens.length; i++) if (target[i]) position[n++] = i
  const places = position.subarray(0, n)
  return { position: places, token: Uint32Array.from(places, (place) => tokens[place]!) }
}

const concatenated = (a: Uint32Array, b: Uint32Array): Uint32Array => {
  const whole = new Uint32Array(a.length + b.length)
  whole.set(a)
  whole.set(b, a.length)
  return whole
}

const checkLengths = (source: PackSequence, targets: number, which: string): void => {
  const columns = Object.entries(source.columns ?? {}).map(([name, values]) => [`columns.${name}`, values] as const)
  for (const [name, values] of [
    ["advantage", source.advantage],
    ["samplerLogprobs", source.samplerLogprobs],
    ...columns
  ] as const) {
    if (typeof values === "object" && values.length !== targets) {
      refuse(`${which}, length of ${name}`, values.length, `${targets}, the number of targets`, "Give one per target")
    }
  }
}

/** Whole string of each branch, and where its own tokens begin. */
const wholeStrings = (prompt: Uint32Array, { forks = [], tokens }: PackSequence, which: string) => {
  const strings = [concatenated(prompt, tokens)]
  const own = [prompt.length]
  for (const [i, { parent, tokens }] of forks.entries()) {
    const whole = parent === undefined ? new Uint32Array() : strings[parent.branch]
    if (whole === undefined || (parent !== undefined && !(parent.length >= 0 && parent.length <= whole.length))) {
      return refuse(
        `${which}, parent of branch ${i + 1}`,
        parent,
        "an earlier branch and at most its length",
        "Build trajectories with an Assembler"
      )
    }
    own.push(parent?.length ?? 0)
    strings.push(concatenated(whole.subarray(0, parent?.length ?? 0), tokens))
  }
  return { strings, own }
}

/** The item of a sequence; `shared` lets it share prefixes with its whole group. */
export const itemOf = (groups: ReadonlyArray<PackGroup>, group: number, sequence: number, shared: boolean): Item => {
  const { prompt, sequences } = groups[group]!
  const source = sequences[sequence]!
  const which = `sequence ${sequence} of group ${group}`
  const { branch, position: places, token } = masked(source)
  const branches = branch ?? new Uint32Array(places.length)
  for (const values of [branches, token]) checkCount(values.length, places.length, which)
  checkLengths(source, places.length, which)
  const { own, strings } = wholeStrings(prompt, source, which)
  const need = strings.map(() => 0)
  const position = places.map((place, n) => {
    const at = branches[n]!
    const whole = strings[at]
    const end = (own[at] ?? 0) + place
    if (whole === undefined || end > whole.length) {
      return refuse(
        `${which}, target ${n}`,
        { branch: at, position: place },
        "a place in a branch",
        "Count positions from the branch's own first token"
      )
    }
    if (end === 0) {
      return refuse(
        `${which}, length of the prompt`,
        0,
        "at least 1, for nothing predicts a first token",
        "Give the prompt a token"
      )
    }
    need[at] = Math.max(need[at]!, end)
    return end
  })
  return {
    group,
    sequence,
    source,
    strings: strings.map((string, b) => string.subarray(0, need[b])),
    branch: branches,
    position,
    token,
    owner: shared ? SHARED : sequence
  }
}

const checkCount = (count: number, targets: number, which: string): void => {
  if (count === targets) return
  refuse(
    `${which}, length of its targets`,
    count,
    `${targets}, the number of positions`,
    "Give each a branch and a token"
  )
}

/** Adds the strings of an item to its group's tree; the number of tokens that were new. */
export const grow = (tree: PrefixTree, { owner, strings }: Item): number => {
  const before = tree.size
  for (const string of strings) tree.insert(string, owner)
  return tree.size - before
}
