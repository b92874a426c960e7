import { assert, describe, it } from "@effect/vitest"
import type { Copy, Place } from "../../../../../src/engines/onnx/sampler/cache.ts"
import { type Family, Grid, type Member } from "../../../../../src/engines/onnx/sampler/slotGrid.ts"
import { plan, positionsOf, type Seat } from "../../../../../src/engines/onnx/sampler/slotLayout.ts"

const group = (prefix: number, count: number, own: number) => ({
  prefix,
  members: Array.from({ length: count }, () => ({ sequence: Symbol("sample"), length: prefix + own }))
})

describe("layout of the sampler's cache", () => {
  it("stores a group's prompt once for each of its lanes", () => {
    const { layout, seats } = plan([group(256, 8, 128), group(240, 8, 128)], 32)
    assert.deepStrictEqual(layout, { lanes: 2, width: 8, shared: 256, own: 128 })
    assert.isTrue(Array.from(seats.values()).every(({ shares }) => shares))
    assert.strictEqual(positionsOf(layout), 2 * (256 + 8 * 128))
  })

  it("gives samples without siblings a seat each and no shared region", () => {
    const { layout, seats } = plan([group(40, 1, 24), group(60, 1, 24), group(0, 1, 10)], 32)
    assert.deepStrictEqual(layout, { lanes: 3, width: 1, shared: 1, own: 96 })
    assert.strictEqual(positionsOf(layout), 3 * 96)
    assert.isTrue(Array.from(seats.values()).every(({ shares }) => !shares))
  })

  it("seats samples without siblings in the gaps that groups leave", () => {
    const { layout, seats } = plan([group(200, 6, 32), group(200, 4, 32), group(4, 1, 20), group(4, 1, 20)], 32)
    assert.deepStrictEqual([layout.lanes, layout.width], [2, 6])
    const taken = new Set(Array.from(seats.values(), ({ column, lane }) => lane * 6 + column))
    assert.strictEqual(taken.size, 12)
  })
})

interface Sample extends Member<Family> {
  readonly name: number
}

/** A cache that holds words instead of keys and values. */
class Words {
  readonly #held = new Map<string, string>()
  static #key = (place: Place, i: number): string =>
    place.region === "shared" ? `${place.lane} ${place.at + i}` : `${place.lane} ${place.column} ${place.at + i}`

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

describe("seats", () => {
  it("keeps everybody's keys and values through any sequence of arrangements", () => {
    let state = 12345
    const random = (below: number): number => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0
      return (state >>> 8) % below
    }
    const grid = new Grid<
      Family & { readonly name: number },
      Sample & { readonly family: { readonly name: number } & Family }
    >()
    type One = Parameters<typeof grid.leave>[0]
    const cache = new Words()
    let [members, names]: [Array<One>, number] = [[], 0]
    let families = Array.from({ length: 4 }, (_, name) => ({ name, prefix: [0, 9, 30, 12][name]! }))
    const promptWord = (family: { readonly name: number }, i: number) => `prompt ${family.name} ${i}`
    const check = (): void => {
      for (const member of members.filter(({ filled }) => filled)) {
        const { column, lane, own, shared } = grid.occupied(member)
        assert.strictEqual(shared + own, member.stored)
        for (let i = 0; i < member.stored; i++) {
          const place: Place =
            i < shared ? { region: "shared", lane, at: i } : { region: "own", lane, column, at: i - shared }
          const expected = i < member.family.prefix ? promptWord(member.family, i) : `${member.name} ${i}`
          assert.strictEqual(cache.get(place, 0), expected)
        }
      }
    }
    for (let round = 0; round < 300; round++) {
      for (const member of members) if (random(6) === 0) grid.leave(member)
      members = members.filter(({ seat }) => seat !== undefined)
      const fresh = Array.from({ length: random(6) }, (): One => {
        const family = families[random(4)]!
        return { name: names++, family, stored: 0, filled: false, shares: false, seat: undefined as Seat | undefined }
      })
      if (random(2) === 0) {
        members.push(...fresh.filter((member) => grid.seat(member, member.family.prefix + 4, random(2) === 0)))
      } else {
        members.push(...fresh)
        const groups = new Map<One["family"], Array<{ sequence: One; length: number }>>()
        for (const sequence of members) {
          const known = groups.get(sequence.family) ?? []
          known.push({ sequence, length: Math.max(sequence.stored, sequence.family.prefix) + 6 })
          groups.set(sequence.family, known)
        }
        const next = plan(
          Array.from(groups, ([{ prefix }, list]) => ({ prefix, members: list })),
          1 + random(16)
        )
        cache.arrange(grid.arrange(next))
      }
      check()
      for (const family of families) {
        for (const place of grid.fill(family)) {
          for (let i = 0; i < family.prefix; i++) cache.put(place, i, promptWord(family, i))
        }
      }
      check()
      for (const member of members) {
        const { column, lane, own } = grid.occupied(member)
        if (own >= grid.layout.own) continue
        cache.put({ region: "own", lane, column, at: own }, 0, `${member.name} ${member.stored}`)
        member.stored += 1
      }
      check()
      if (random(40) === 0) families = families.map(({ name, prefix }) => ({ name: name + 10, prefix }))
    }
    assert.isAbove(names, 300)
  })
})
