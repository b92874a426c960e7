import { assert, describe, it } from "vitest"
import { EngineFailure } from "../../../../../src/engines/onnx/worker/failure.ts"
import { Gate } from "../../../../../src/engines/onnx/worker/gate.ts"

const lock = new SharedArrayBuffer(12)
const gate = (id: number) => new Gate({ state: new SharedArrayBuffer(8), lock, id })

describe("gate of the runtime", () => {
  it("says whether a call is under way, and lets none begin once it is shut", async () => {
    const [worker, ends] = [gate(1), Promise.withResolvers<number>()]
    const other = new Gate(worker.memory)
    const call = worker.through(() => ends.promise, false)
    other.shut()
    assert.isFalse(other.waitSync(20))
    ends.resolve(3)
    assert.strictEqual(await call, 3)
    assert.isTrue(other.waitSync(20))
    const refused: unknown = await worker.through(async () => 1, false).catch((cause: unknown) => cause)
    assert.instanceOf(refused, EngineFailure)
    assert.strictEqual(refused.code, "ENGINE_LOST")
    assert.isTrue(other.waitSync(0))
  })

  it("is passed by a thread that has the lock already, and by others when it is given back", async () => {
    const [first, second] = [gate(1), gate(2)]
    const ends = Promise.withResolvers<void>()
    const call = first.through(() => ends.promise, true)
    first.throughSync(() => {}, true)
    const failing = first.through(() => Promise.reject(new Error("no")), true)
    await failing.catch(() => {})
    ends.resolve()
    await call
    assert.strictEqual(await second.through(async () => 2, true), 2)
  })

  it("gives back the lock of a thread that is gone, and of no other", async () => {
    const [gone, other, third] = [gate(1), gate(2), gate(3)]
    void gone.through(() => new Promise(() => {}), true)
    third.forfeit()
    const state = new Int32Array(lock)
    assert.strictEqual(state[0], 1)
    gone.forfeit()
    assert.strictEqual(await other.through(async () => 2, true), 2)
    assert.strictEqual(state[0], 0)
  })
})
