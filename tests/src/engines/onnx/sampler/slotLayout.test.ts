import { assert, describe, it } from "@effect/vitest"
import type { Copy, Place } from "../../../../../src/engines/onnx/sampler/cache.ts"
import { type PromptGroup, Grid, type Member } from "../../../../../src/engines/onnx/sampler/slotGrid.ts"
import { plan, positionsOf, type Slot } from "../../../../../src/engines/onnx/sampler/slotLayout.ts"

const group = (prefix: number, count: number, own: number) => ({
  prefix,
  members: Array.from({ length: count }, () => ({ sequence: Symbol("sample"), length: prefix + own }))
})

describe("layout of the sampler's cache", () => {
  it("stores a group's prompt once for each of its grid rows", () => {
    const { layout, slots } = plan([group(256, 8, 128), group(240, 8, 128)], 32)
    assert.deepStrictEqual(layout, { gridRows: 2, width: 8, shared: 256, own: 128 })
    assert.isTrue(Array.from(slots.values()).every(({ shares }) => shares))
    assert.strictEqual(positionsOf(layout), 2 * (256 + 8 * 128))
  })

  it("gives samples without siblings a slot each and no shared region", () => {
    const { layout, slots } = plan([group(40, 1, 24), group(60, 1, 24), group(0, 1, 10)], 32)
    assert.deepStrictEqual(layout, { gridRows: 3, width: 1, shared: 1, own: 96 })
    assert.strictEqual(positionsOf(layout), 3 * 96)
    assert.isTrue(Array.from(slots.values()).every(({ shares }) => !shares))
  })

  it("slots samples without siblings in the gaps that groups leave", () => {
    const { layout, slots } = plan([group(200, 6, 32), group(200, 4, 32), group(4, 1, 20), group(4, 1, 20)], 32)
    assert.deepStrictEqual([layout.gridRows, layout.width], [2, 6])
    const taken = new Set(Array.from(slots.values(), ({ column, gridRow }) => gridRow * 6 + column))
    assert.strictEqual(taken.size, 12)
  })
})

interface Sample extends Member<PromptGroup> {
  readonly name: number
}

/** A cache that holds words instead of keys and values. */
class Words {
  readonly #held = new Map<string, string>()
  static #key = (place: Place, i: number): string =>
    place.region === "shared" ? `${place.gridRow} ${place.at + i}` : `${place.gridRow} ${place.column} ${place.at + i}`

  put(place: Place, i: number, word: string): void {
    this.#held.set(Words.#key(place, i), word)
  }
  get(place: Place, i: number): string | undefined {
    return this.#held.get(Words.#key(place, i))
  }
  arrange(copies: ReadonlyArray<Copy>): void {
    const moved = copies.flatMap(({ from, length, to }) =>
      Array.from({ length }, (_, i) => [Words.#key(to, i), this.get(from, i)!] as const)
    )
    this.#held.clear()
    for (const [key, word] of moved) this.#held.set(key, word)
  }
}

describe("slots", () => {
  it("keeps everybody's keys and values through any sequence of arrangements", () => {
    let state = 12345
    const random = (below: number): number => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0
      return (state >>> 8) % below
    }
    const grid = new Grid<
      PromptGroup & { readonly name: number },
      Sample & { readonly group: { readonly name: number } & PromptGroup }
    >()
    type One = Parameters<typeof grid.leave>[0]
    const cache = new Words()
    let [members, names]: [Array<One>, number] = [[], 0]
    let promptGroups = Array.from({ length: 4 }, (_, name) => ({ name, prefix: [0, 9, 30, 12][name]! }))
    const promptWord = (group: { readonly name: number }, i: number) => `prompt ${group.name} ${i}`
    const check = (): void => {
      for (const member of members.filter(({ filled }) => filled)) {
        const { column, gridRow, own, shared } = grid.occupied(member)
        assert.strictEqual(shared + own, member.stored)
        for (let i = 0; i < member.stored; i++) {
          const place: Place =
            i < shared ? { region: "shared", gridRow, at: i } : { region: "own", gridRow, column, at: i - shared }
          const expected = i < member.group.prefix ? promptWord(member.group, i) : `${member.name} ${i}`
          assert.strictEqual(cache.get(place, 0), expected)
        }
      }
    }
    for (let round = 0; round < 300; round++) {
      for (const member of members) if (random(6) === 0) grid.leave(member)
      members = members.filter(({ slot }) => slot !== undefined)
      const fresh = Array.from({ length: random(6) }, (): One => {
        const group = promptGroups[random(4)]!
        return { name: names++, group, stored: 0, filled: false, shares: false, slot: undefined as Slot | undefined }
      })
      if (random(2) === 0) {
        members.push(...fresh.filter((member) => grid.assign(member, member.group.prefix + 4, random(2) === 0)))
      } else {
        members.push(...fresh)
        const groups = new Map<One["group"], Array<{ sequence: One; length: number }>>()
        for (const sequence of members) {
          const known = groups.get(sequence.group) ?? []
          known.push({ sequence, length: Math.max(sequence.stored, sequence.group.prefix) + 6 })
          groups.set(sequence.group, known)
        }
        const next = plan(
          Array.from(groups, ([{ prefix }, list]) => ({ prefix, members: list })),
          1 + random(16)
        )
        cache.arrange(grid.arrange(next))
      }
      check()
      for (const group of promptGroups) {
        for (const place of grid.fill(group)) {
          for (let i = 0; i < group.prefix; i++) cache.put(place, i, promptWord(group, i))
        }
      }
      check()
      for (const member of members) {
        const { column, gridRow, own } = grid.occupied(member)
        if (own >= grid.layout.own) continue
        cache.put({ region: "own", gridRow, column, at: own }, 0, `${member.name} ${member.stored}`)
        member.stored += 1
      }
      check()
      if (random(40) === 0) promptGroups = promptGroups.map(({ name, prefix }) => ({ name: name + 10, prefix }))
    }
    assert.isAbove(names, 300)
  })
})
