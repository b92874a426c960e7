import { afterAll, assert, describe, it } from "vitest"
import * as ChildPool from "../../../../src/sandbox/internal/childPool.ts"

interface Request {
  readonly silent?: boolean
}

/** Answers with its process id, unless it is asked to be silent. */
const script = `
  process.on("message", (request) => request.silent || process.send({ pid: process.pid }))
  process.on("disconnect", () => process.exit())
  process.send("ready")
`
const pool = ChildPool.make<Request, { readonly pid: number }>(1, () => ({
  file: process.execPath,
  args: ["-e", script],
  options: {},
  more: []
}))
afterAll(() => pool.close())

/** Asks a child, gives it back and tells which one it was; or why there was no answer. */
const ask = async (request: Request, end: boolean): Promise<number | string> => {
  const link = await pool.take()
  if (ChildPool.isLost(link)) return link.lost
  link.send(request)
  const outcome = await link.next(request.silent === true ? 100 : 20_000)
  link.release(end)
  return ChildPool.isLost(outcome) ? outcome.lost : outcome.pid
}

describe("a child of the pool", () => {
  it("is lent again, until it is released to its end", async () => {
    const first = await ask({}, false)
    assert.strictEqual(await ask({}, true), first)
    assert.notStrictEqual(await ask({}, false), first)
  })

  it("is not lent again after it left a request without an answer, whatever its user says", async () => {
    const before = await ask({}, false)
    assert.strictEqual(await ask({ silent: true }, false), "hang")
    assert.notStrictEqual(await ask({}, false), before)
  })
})
