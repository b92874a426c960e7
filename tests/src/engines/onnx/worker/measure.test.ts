import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { PolicyOnnx } from "quintain"
import { missingGpu } from "../../../../fixtures/softwareGpu.ts"
import { load } from "../../../../../src/engines/internal/nativeModel.ts"
import { placements, readProfiles } from "../../../../../src/engines/onnx/worker/measure.ts"

describe("profiles of the runtime", () => {
  it("tell which nodes of a graph fell back, however often they ran", () => {
    const directory = fs.mkdtempSync(path.join(os.tmpdir(), "quintain-profiles-"))
    const node = (name: string, provider: string, op_name = name) => ({
      cat: "Node",
      name: `${name}_kernel_time`,
      args: { provider: `${provider}ExecutionProvider`, op_name }
    })
    const write = (name: string, events: ReadonlyArray<object>) =>
      fs.writeFileSync(path.join(directory, `graph-${name}_2026.json`), JSON.stringify(events))
    const other = { cat: "Session", name: "session_initialization" }
    const add = node("Add", "WebGpu")
    write("head", [other, add, node("Reshape_1", "CPU", "Reshape"), node("copy", "WebGpu", "MemcpyToHost"), add])
    write("adamW", [node("Mul", "CPU")])
    write("other", [node("Mul", "CPU")])
    try {
      assert.deepStrictEqual(
        readProfiles(directory).toSorted((a, b) => a.name.localeCompare(b.name)),
        [
          { name: "adamW", nodes: { CPUExecutionProvider: 1 }, fellBack: {}, copies: 0 },
          {
            name: "head",
            nodes: { WebGpuExecutionProvider: 1, CPUExecutionProvider: 1 },
            fellBack: { Reshape: 1 },
            copies: 1
          }
        ]
      )
    } finally {
      fs.rmSync(directory, { recursive: true })
    }
  })
})

const model = {
  vocab_size: 64,
  hidden_size: 32,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  intermediate_size: 64
}

describe("report", () => {
  it.live("measures what opens, and says in a line why others do not", () =>
    Effect.gen(function* () {
      const absent = process.platform === "win32" ? "coreml" : "dml"
      const [refused, cpu] = yield* PolicyOnnx.report({ model, threads: 1, executionProviders: [absent, "cpu"] })
      assert.deepStrictEqual(refused, {
        provider: absent,
        refused: `not in the runtime for ${process.platform}-${process.arch}`
      })
      for (const speed of [cpu!.gflops, cpu!.decodeTokensPerSecond, cpu!.updateTokensPerSecond]) {
        assert.isAbove(speed!, 0)
      }
      const names = cpu!.graphs!.map(({ name }) => name)
      for (const name of ["sampler", "embed", "forward", "head", "backward", "adamW"]) assert.include(names, name)
      for (const { fellBack, nodes } of cpu!.graphs!) {
        assert.deepStrictEqual(Object.keys(nodes), ["CPUExecutionProvider"])
        assert.deepStrictEqual(fellBack, {})
      }
    })
  )
})

describe.skipIf(missingGpu !== undefined)("WebGPU", () => {
  it("computes every node of an update and of sampling", async () => {
    for (const lora of [null, { rank: 4, targets: ["all-linear"] }]) {
      const settings = { config: model, frozen: lora !== null, ...(lora === null ? {} : { lora }) }
      const store = await load().NativeModel.create(JSON.stringify(settings))
      const graphs = await placements({ provider: "webgpu" }, store)
      await store.close()
      assert.isAbove(graphs.length, 6)
      for (const { fellBack, name, nodes } of graphs) {
        assert.deepStrictEqual([name, Object.keys(nodes), fellBack], [name, ["WebGpuExecutionProvider"], {}])
      }
    }
  })
})
