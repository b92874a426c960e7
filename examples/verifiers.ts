/**
 * Scores completions with the verifier library, without any training. Model-written code runs in a sandbox. The last part
 * tests a naive verifier and lists the texts that exploit it.
 *
 *     npm run example -- verifiers
 */
import { type Task, Trajectory, type Verifier } from "quintain"
import { answer, CodeRecords, jsonSchema, Sandbox, Sandboxes, unitTests, type UnitTestWork } from "quintain/rewards"
import { checkVerifier, render } from "quintain/rewards/testing"

const judge = async <Data>(verifier: Verifier.VerifierFunction<Data>, data: Data, text: string) => {
  const task: Task.Task<Data> = { id: "example", prompt: "", data }
  const verdict = await verifier({
    task,
    trajectory: Trajectory.ofText(text, task),
    signal: AbortSignal.timeout(60_000)
  })
  console.log(`${JSON.stringify(text.slice(0, 60)).padEnd(64)}`, JSON.stringify(verdict))
}

console.log("\nIsolation report of this machine:")
for (const language of ["javascript", "python"] as const) {
  const boundary = await Sandboxes.get({ language })
    .boundary()
    .catch((refused: unknown) => refused)
  console.log(language, boundary instanceof Sandbox.SandboxRefused ? boundary.message : boundary)
}

console.log("\nJavaScript, tested by cases that the candidate never sees:")
const sums = unitTests<{ cases: ReadonlyArray<{ args: Array<number>; expect: number }> }>({
  entry: "sum",
  cases: ({ data }) => data.cases,
  timeout: 300
})
const cases = { cases: [{ args: [1, 2], expect: 3 }] }
await judge(sums, cases, "```js\nconst sum = (a, b) => a + b\n```")
await judge(sums, cases, "```js\nconst sum = (a, b) => { while (true) {} }\n```")
await judge(sums, cases, "```js\nconst sum = () => ({ toString: () => 3, valueOf: () => 3 })\n```")

console.log("\nPython, tested by the test file of a HumanEval record:")
const record = {
  task_id: "example/0",
  prompt: 'def double(x: int) -> int:\n    """ Twice x. """\n',
  entry_point: "double",
  canonical_solution: "    return 2 * x\n",
  test: "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-3) == -6\n"
}
const python = unitTests<UnitTestWork>({ work: ({ data }) => data, language: "python" })
await judge(python, CodeRecords.humanEval(record).data, "```python\ndef double(x):\n    return x + x\n```")
await judge(python, CodeRecords.humanEval(record).data, "    return 4")

console.log("\nAnswers and documents:")
await judge(answer(), { answer: "\\frac{1}{2}" }, "Half of them, so \\boxed{0.5}.")
await judge(answer(), { answer: "\\frac{1}{2}" }, "\\boxed{0.5000001}")
const point = { type: "object", required: ["x", "y"], properties: { x: { type: "number" }, y: { type: "number" } } }
await judge(jsonSchema(point), {}, 'Here it is:\n```json\n{ "x": 1, "y": 2 }\n```')

console.log("\nA naive verifier, and the texts that exploit it:")
const naive: Verifier.VerifierFunction = ({ trajectory }) => Number(trajectory.text.includes("42"))
const task = { id: "life", prompt: "6 * 7 = ?", data: {} }
console.log(render(await checkVerifier(naive, { task, gold: ["The answer is 42."], wrong: ["The answer is 41."] })))
