import { assert, describe, it } from "vitest"
import { Progress } from "quintain"

const stream = (isTTY: boolean, columns = 100) => {
  const written: Array<string> = []
  const output = { isTTY, columns, write: (text: string) => written.push(text) > 0 }
  return { written, output: output as unknown as NodeJS.WriteStream }
}

const step = (number: number): Progress.ProgressStep => ({
  step: number,
  steps: 10,
  tokensPerSecond: 1234.5,
  reward: 0.25,
  heldOut: 0.5
})

describe("Progress", () => {
  it("writes a line a step, whose estimate leaves the first step out", () => {
    const { output, written } = stream(false)
    let now = 0
    const progress = Progress.make({ label: "run", output, now: () => now })
    progress.step(step(1))
    now = 4
    progress.step(step(3))
    progress.note("a remark")
    progress.end()
    assert.deepStrictEqual(written.slice(1), [`run  ${Progress.formatStep(step(3), 14)}\n`, "a remark\n"])
    assert.include(written[1], "step  3/10  reward 0.250  held-out 0.500  1235 tokens/s")
    assert.notInclude(written[1], "loss")
  })

  it("rewrites one line of a terminal, within its width, and keeps remarks above it", () => {
    const { output, written } = stream(true, 40)
    const progress = Progress.make({ label: "run", output, now: () => 0 })
    progress.step(step(1))
    progress.note("a remark")
    progress.step(step(2))
    progress.end()
    const clear = "\r\u001b[K"
    assert.isTrue(written[0]!.startsWith(`${clear}run  step`))
    assert.isAtMost(written[0]!.length - clear.length, 39)
    assert.notInclude(written[0], "\n")
    assert.deepStrictEqual(written.slice(1, 3), [clear, "a remark\n"])
    assert.strictEqual(written.at(-1), "\n")
  })
})
