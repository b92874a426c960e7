import { assert, describe, it } from "vitest"
import { Identity } from "quintain"

describe("Identity", () => {
  it("makes settings plain JSON", () => {
    const bare = () => 0
    const named = Identity.identify(() => 0, Identity.make("named", { rank: 1 }))
    const settings = {
      low: 0.2,
      high: undefined,
      max: Infinity,
      list: [1, Number.NaN],
      ids: Uint8Array.of(1, 2),
      bare,
      named
    }
    assert.deepStrictEqual(Identity.make("loss", settings), {
      name: "loss",
      settings: {
        low: 0.2,
        max: "Infinity",
        list: [1, "NaN"],
        ids: [1, 2],
        bare: { name: "bare", settings: {}, opaque: true },
        named: { name: "named", settings: { rank: 1 } }
      }
    })
  })

  it("is what a value states, its name and settings, or the name of a function", () => {
    const stated = Identity.identify(() => 0, Identity.make("stated", { a: 1 }))
    assert.deepStrictEqual(Identity.of(stated), { name: "stated", settings: { a: 1 } })
    assert.deepStrictEqual(Identity.of({ name: "lookup", settings: { size: 3 }, maxTokens: 4 }), {
      name: "lookup",
      settings: { size: 3 }
    })
    assert.deepStrictEqual(Identity.of(1e-3), { name: "constant", settings: { value: 1e-3 } })
    const mine = () => 0
    assert.deepStrictEqual(Identity.of(mine), { name: "mine", settings: {}, opaque: true })
    assert.deepStrictEqual(Identity.of(undefined), { name: "undefined", settings: {}, opaque: true })
  })
})
