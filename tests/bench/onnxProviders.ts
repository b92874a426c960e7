/**
 * `npm run bench -- onnx-providers`: which providers of ONNX Runtime open on this machine, which nodes of the graphs fell
 * back to the processor, and how fast sampling and updates are on each. For a person with a GPU: nobody here has one.
 *
 *     model=<folder, file or name on the Hub>   default: the shape of SmolLM2-135M with random weights
 *     providers=webgpu,cpu                      default: all
 */
import * as Effect from "effect/Effect"
import { PolicyOnnx } from "quintain"

const settings = new Map(process.argv.slice(2).map((pair) => pair.split(/=(.*)/, 2) as [string, string]))
const smollm2 = {
  vocab_size: 49_152,
  hidden_size: 576,
  num_hidden_layers: 30,
  num_attention_heads: 9,
  num_key_value_heads: 3,
  intermediate_size: 1536,
  max_position_embeddings: 2048,
  tie_word_embeddings: true
}
const model = settings.get("model") ?? smollm2
const providers = settings.get("providers")?.split(",") as ReadonlyArray<PolicyOnnx.ExecutionProvider> | undefined

const reports = await Effect.runPromise(
  PolicyOnnx.report({
    model,
    lora: { rank: 16 },
    ...(providers === undefined ? {} : { executionProviders: providers })
  })
)

for (const { graphs = [], provider } of reports) {
  if (graphs.length === 0) continue
  const total = (counts: Readonly<Record<string, number>>) => Object.values(counts).reduce((sum, n) => sum + n, 0)
  const nodes = graphs.reduce((sum, graph) => sum + total(graph.nodes), 0)
  const fellBack = graphs.reduce((sum, graph) => sum + total(graph.fellBack), 0)
  console.log(`\n${provider}: ${nodes - fellBack} of ${nodes} nodes in ${graphs.length} graphs`)
  for (const graph of graphs) {
    const ops = Object.entries(graph.fellBack).map(([op, count]) => `${count} ${op}`)
    if (ops.length + graph.copies > 0) {
      console.log(`  ${graph.name}: ${ops.join(", ") || "nothing"} fell back, ${graph.copies} copies`)
    }
  }
}
for (const { provider, refused } of reports) {
  if (refused !== undefined) console.log(`\n${provider}: ${refused}`)
}
console.log()
console.table(
  Object.fromEntries(
    reports
      .filter(({ refused }) => refused === undefined)
      .map(({ decodeTokensPerSecond = 0, gflops = 0, provider, updateTokensPerSecond = 0 }) => [
        provider,
        {
          "GFLOP/s": Number(gflops.toPrecision(2)),
          "decode tokens/s (batch 8)": Math.round(decodeTokensPerSecond),
          "update tokens/s": Math.round(updateTokensPerSecond)
        }
      ])
  )
)
