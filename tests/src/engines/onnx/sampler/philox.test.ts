import { assert, describe, it } from "@effect/vitest"
import { philox4x32, uniforms } from "../../../../../src/engines/onnx/sampler/philox.ts"

describe("philox", () => {
  it("gives the answers published with Random123", () => {
    const all = 0xffffffff
    assert.deepStrictEqual(philox4x32([0, 0, 0, 0], [0, 0]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8])
    assert.deepStrictEqual(
      philox4x32([all, all, all, all], [all, all]),
      [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]
    )
    assert.deepStrictEqual(
      philox4x32([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
      [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
    )
  })

  it("depends on all of seed, stream, index and position", () => {
    const drawn = [
      uniforms(1n, 2n)(3, 4),
      uniforms(1n | (1n << 32n), 2n)(3, 4),
      uniforms(1n, 2n | (1n << 63n))(3, 4),
      uniforms(1n, 2n)(4, 4),
      uniforms(1n, 2n)(3, 5)
    ]
    assert.strictEqual(new Set(drawn).size, drawn.length)
    assert.isTrue(drawn.every((value) => value >= 0 && value < 1))
  })
})
