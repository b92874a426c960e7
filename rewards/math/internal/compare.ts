/** Two answers, part by part: exactly where algebra decides, and by numbers of the library's where it does not. */
import { algebra } from "./exact.ts"
import type { Answer, Expression, Measured, Sign } from "./expression.ts"
import { agree, apart, at, mathJson, points, symbols, type Digits } from "./numeric.ts"
import { branches } from "./parse.ts"
import { NonFinite, TooLarge } from "./rational.ts"
import type { Work } from "./evaluatorWorker.ts"

/** Gives values of constants, or throws what ends the comparison. */
export type Oracle = (work: Work["constants"]) => Promise<ReadonlyArray<Digits | null>>

export type Decided =
  | { readonly equal: true; readonly by: "exact" | "numeric" }
  | { readonly equal: false; readonly reason: string }

const maxItems = 50
const maxQuestions = 24

/**
 * Whether `actual` is an answer where `expected` is: a unit that `expected` does not name, and a name before "=", say
 * nothing; everything else has to agree.
 */
export const compare = async (actual: Measured, expected: Measured, oracle: Oracle): Promise<Decided> => {
  if (expected.unit !== "" && actual.unit !== expected.unit) return different(`the unit is ${actual.unit || "missing"}`)
  const judge = new Comparison(oracle)
  const equal = await judge.same(actual.answer, expected.answer)
  if (!equal) return different(judge.because ?? "a different value")
  return { equal: true, by: judge.asked > 0 ? "numeric" : "exact" }
}

const different = (reason: string): Decided => ({ equal: false, reason })

type Relation = Extract<Answer, { readonly kind: "relation" }>

/** The comparison of two answers; the work of all their parts is bounded together. */
class Comparison {
  /** Questions that numbers had to decide. */
  asked = 0
  because: string | undefined
  readonly #algebra = algebra()
  readonly #oracle: Oracle

  constructor(oracle: Oracle) {
    this.#oracle = oracle
  }

  async value(a: Expression, b: Expression): Promise<boolean> {
    if (a.op === "infinity" || b.op === "infinity") return false
    const verdict = this.#algebra.compare(this.#algebra.of(a), this.#algebra.of(b))
    if (verdict !== "undecided") return verdict === "equal"
    const names = [...symbols(b, symbols(a))].toSorted()
    const pairs = (names.length === 0 ? [new Map()] : points(names)).map(
      (values) => [at(a, values), at(b, values)] as const
    )
    if (pairs.some(([x, y]) => apart(x, y))) return false
    if (++this.asked > maxQuestions) throw new TooLarge("too many parts")
    const values = await this.#oracle(pairs.flatMap((pair) => pair.map((side) => ({ json: mathJson(side) }))))
    const verdicts = pairs.map((_, index) => agree(values[2 * index]!, values[2 * index + 1]!, names.length === 0))
    const decided = verdicts.filter((one) => one !== undefined)
    if (decided.length === 0) this.because = "no finite value"
    return decided.every(Boolean) && decided.length >= (names.length === 0 ? 1 : 3)
  }

  async ordered(a: ReadonlyArray<Answer>, b: ReadonlyArray<Answer>): Promise<boolean> {
    if (a.length !== b.length) return false
    for (const [index, item] of a.entries()) if (!(await this.same(item, b[index]!))) return false
    return true
  }

  /** Each of one is one of the other, and the reverse. */
  async unordered(a: ReadonlyArray<Answer>, b: ReadonlyArray<Answer>): Promise<boolean> {
    if (a.length > maxItems || b.length > maxItems) throw new TooLarge(`over ${maxItems} items`)
    const found = new Set<number>()
    for (const item of a) {
      let some = false
      for (const [index, other] of b.entries()) {
        if (!(await this.same(item, other))) continue
        found.add(index)
        some = true
        break
      }
      if (!some) return false
    }
    for (const [index, other] of b.entries()) {
      if (found.has(index)) continue
      let some = false
      for (const earlier of found) some ||= await this.same(b[earlier]!, other)
      if (!some) return false
    }
    return true
  }

  async end(a: Expression, b: Expression): Promise<boolean> {
    const infinite = [a, b].map(infinity)
    return infinite[0] !== 0 || infinite[1] !== 0 ? infinite[0] === infinite[1] : this.value(a, b)
  }

  async same(given: Answer, wanted: Answer): Promise<boolean> {
    if (given.kind === "relation" && wanted.kind === "relation") return this.relations(given, wanted)
    const a = await this.bare(given)
    const b = await this.bare(named(wanted))
    if (a === undefined || b === undefined) return false
    const several = [itemsOf(a), itemsOf(b)] as const
    if (a.kind === "value" && b.kind === "value") {
      return several[0] !== undefined && several[1] !== undefined
        ? this.unordered(several[0], several[1])
        : several[0] === several[1] && this.value(a.value, b.value)
    }
    if (a.kind === "interval" || b.kind === "interval") return this.intervals(a, b)
    if (a.kind === "matrix" || b.kind === "matrix") return this.matrices(a, b)
    if (a.kind === "tuple" || b.kind === "tuple") {
      const sequence = (part: Answer) => (part.kind === "tuple" || part.kind === "list" ? part.items : undefined)
      const [left, right] = [sequence(a), sequence(b)]
      return left !== undefined && right !== undefined && this.ordered(left, right)
    }
    const left = several[0] ?? [a]
    const right = several[1] ?? [b]
    return this.unordered(left, right)
  }

  /** The value that a relation states: "x = 5", "5 = x", "x = 2 + 3 = 5", "2 + 3 = 5", "x in (1, 2)", "1 < x < 2". */
  async bare(part: Answer): Promise<Answer | undefined> {
    if (part.kind !== "relation") return part
    const { sides, signs } = part
    if (signs.length === 1 && signs[0] === "in" && part.named) return sides[1]
    if (signs.some((sign) => sign !== "=")) return asInterval(part)
    const last = sides.at(-1)!
    const reversed = !part.named && sides.length === 2 && last.kind === "value" && last.value.op === "symbol"
    const values = reversed ? sides.slice(0, 1) : part.named || isPoint(sides[0]!) ? sides.slice(1) : sides
    for (const side of values.slice(0, -1)) if (!(await this.same(side, values.at(-1)!))) return undefined
    return values.at(-1)
  }

  async relations(a: Relation, b: Relation): Promise<boolean> {
    const equation = (part: Relation) => part.signs.length === 1 && part.signs[0] === "="
    const name = (part: Relation) =>
      part.named || isQuantity(part.sides[0]!) ? JSON.stringify(part.sides[0], plainly) : undefined
    if (a.signs.every((sign) => sign === "=") && b.signs.every((sign) => sign === "=")) {
      if (name(a) !== undefined && name(a) === name(b)) {
        const [left, right] = [await this.bare(named(a)), await this.bare(named(b))]
        if (left !== undefined && right !== undefined && (await this.same(left, right))) return true
      }
      if (!equation(a) || !equation(b)) return false
      const differences = [a, b].map(({ sides: [left, right] }) =>
        left?.kind === "value" && right?.kind === "value"
          ? this.#algebra.sub(this.#algebra.of(left.value), this.#algebra.of(right.value))
          : undefined
      )
      return (
        differences[0] !== undefined &&
        differences[1] !== undefined &&
        this.#algebra.proportional(differences[0], differences[1])
      )
    }
    const [left, right] = [asInterval(a), asInterval(b)]
    if (left !== undefined && right !== undefined) return about(a) === about(b) && this.same(left, right)
    const [x, y] = [upwards(a), upwards(b)]
    return (
      x.signs.length === y.signs.length &&
      x.signs.every((sign, index) => sign === y.signs[index]) &&
      this.ordered(x.sides, y.sides)
    )
  }

  async intervals(a: Answer, b: Answer): Promise<boolean> {
    if (a.kind === "interval" && b.kind === "interval") {
      return (
        a.open[0] === b.open[0] &&
        a.open[1] === b.open[1] &&
        (await this.end(a.ends[0], b.ends[0])) &&
        (await this.end(a.ends[1], b.ends[1]))
      )
    }
    const [interval, other] = a.kind === "interval" ? [a, b] : [b as typeof a & { kind: "interval" }, a]
    if (interval.kind !== "interval" || !interval.open.every(Boolean)) return false
    // a point, written without its brackets
    const point = interval.ends.map((part): Answer => ({ kind: "value", value: part }))
    return (
      other.kind === "list" && this.ordered(a === interval ? point : other.items, a === interval ? other.items : point)
    )
  }

  async matrices(a: Answer, b: Answer): Promise<boolean> {
    if (a.kind !== b.kind || a.kind !== "matrix" || b.kind !== "matrix" || a.rows.length !== b.rows.length) return false
    if (a.rows.reduce((count, row) => count + row.length, 0) > 4 * maxItems) throw new TooLarge("a matrix of that size")
    for (const [row, cells] of a.rows.entries()) {
      if (cells.length !== b.rows[row]!.length) return false
      for (const [column, cell] of cells.entries()) if (!(await this.value(cell, b.rows[row]![column]!))) return false
    }
    return true
  }
}

/** The task's "|AB| = 5" and "(p, q) = (3, 2)" ask for what is on the right. */
const named = (part: Answer): Answer =>
  part.kind === "relation" &&
  part.signs.length === 1 &&
  part.signs[0] === "=" &&
  isQuantity(part.sides[0]!) &&
  free(part.sides[1]!) === 0
    ? part.sides[1]!
    : part

const plainly = (_: string, part: unknown): unknown => (typeof part === "bigint" ? String(part) : part)

const infinity = (node: Expression): -1 | 0 | 1 => {
  if (node.op === "infinity") return 1
  if (node.op === "neg" && node.args[0].op === "infinity") return -1
  return 0
}

/** A quantity has a name: x, (x, y), |AB|, AB, A : B. Another expression in symbols is an equation's side. */
const isQuantity = (part: Answer): boolean => {
  const only = (node: Expression): boolean =>
    node.op === "symbol" || ((node.op === "abs" || node.op === "div" || node.op === "mul") && node.args.every(only))
  if (part.kind === "value") return only(part.value)
  if (part.kind === "interval") return part.ends.every(only)
  return part.kind === "tuple" && part.items.every(isQuantity)
}

/** (x, y): symbols in brackets. */
const isPoint = (part: Answer): boolean =>
  part.kind === "interval"
    ? part.ends.every((end) => end.op === "symbol")
    : part.kind === "tuple" && part.items.every((item) => symbolOf(item) !== undefined)

/** How many symbols there are in it. */
const free = (part: Answer): number => {
  if (part.kind === "value") return symbols(part.value).size
  if ("items" in part) return part.items.reduce((sum, item) => sum + free(item), 0)
  if (part.kind === "interval") return part.ends.reduce((sum, end) => sum + symbols(end).size, 0)
  if (part.kind === "matrix") return part.rows.flat().reduce((sum, cell) => sum + symbols(cell).size, 0)
  return part.sides.reduce((sum, side) => sum + free(side), 0)
}

/** The items of what has several in no order; `undefined` of what has one. */
const itemsOf = (part: Answer): ReadonlyArray<Answer> | undefined => {
  if (part.kind === "value") {
    const values = branches(part.value)
    return values.length === 1 ? undefined : values.map((value) => ({ kind: "value", value }))
  }
  if (part.kind !== "set" && part.kind !== "list" && part.kind !== "union") return undefined
  return part.items.flatMap((item): ReadonlyArray<Answer> => {
    if (item.kind === "relation" && item.sides.length === 2 && item.sides[1]!.kind === "value") {
      const values = branches(item.sides[1]!.value)
      return values.map((value) => ({ ...item, sides: [item.sides[0]!, { kind: "value", value }] }))
    }
    const inner =
      item.kind === "value" || (part.kind === "union" && item.kind === "set") || item.kind === "union"
        ? itemsOf(item)
        : undefined
    return inner ?? [item]
  })
}

const flipped: Readonly<Record<Sign, Sign>> = {
  "<": ">",
  "<=": ">=",
  ">": "<",
  ">=": "<=",
  "=": "=",
  "!=": "!=",
  in: "in"
}

/** Larger sides to the right. */
const upwards = <R extends { readonly sides: ReadonlyArray<Answer>; readonly signs: ReadonlyArray<Sign> }>(
  relation: R
) =>
  relation.signs.every((sign) => sign === ">" || sign === ">=")
    ? { sides: relation.sides.toReversed(), signs: relation.signs.map((sign) => flipped[sign]).toReversed() }
    : { sides: relation.sides, signs: relation.signs }

const symbolOf = (part: Answer | undefined): string | undefined =>
  part?.kind === "value" && part.value.op === "symbol" ? part.value.name : undefined

/** The one symbol that an inequality is about. */
const about = (relation: { readonly sides: ReadonlyArray<Answer> }): string | undefined =>
  relation.sides.map(symbolOf).find((name) => name !== undefined)

/** "1 < x <= 2" and "x > 1", where one side is a symbol and the others hold none. */
const asInterval = (relation: {
  readonly sides: ReadonlyArray<Answer>
  readonly signs: ReadonlyArray<Sign>
}): Answer | undefined => {
  if (relation.signs.length === 1 && relation.signs[0] === "in" && symbolOf(relation.sides[0]) !== undefined)
    return relation.sides[1]
  const { sides, signs } = upwards(relation)
  if (!signs.every((sign) => sign === "<" || sign === "<=") || signs.length > 2) return undefined
  const variable = sides.findIndex((side) => symbolOf(side) !== undefined)
  const ends = sides.filter((_, index) => index !== variable)
  if (variable < 0 || (sides.length === 3 && variable !== 1)) return undefined
  const bounds = ends.map((side) => (side.kind === "value" && symbols(side.value).size === 0 ? side.value : undefined))
  const infinite: Expression = { op: "infinity" }
  if (bounds.some((bound) => bound === undefined)) return undefined
  const low: Expression = variable === 0 ? { op: "neg", args: [infinite] } : bounds[0]!
  const high: Expression = variable === sides.length - 1 ? infinite : bounds.at(-1)!
  return {
    kind: "interval",
    open: [variable === 0 || signs[0] === "<", variable === sides.length - 1 || signs.at(-1) === "<"],
    ends: [low, high]
  }
}

/** Whether the answer has a value at all: nothing equals what has none. Throws `NonFinite`, `TooLarge`. */
export const finite = ({ answer }: Measured): void => {
  const own = algebra()
  const visit = (part: Answer): void => {
    if (part.kind === "value") {
      if (infinity(part.value) !== 0) throw new NonFinite("infinity")
      for (const branch of branches(part.value)) own.of(branch)
    } else if ("items" in part) part.items.forEach(visit)
    else if (part.kind === "relation") part.sides.forEach(visit)
    else if (part.kind === "matrix") for (const row of part.rows) for (const cell of row) own.of(cell)
  }
  visit(answer)
}
