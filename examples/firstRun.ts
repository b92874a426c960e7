// Trains a new model on a task and a reward of your own, in a few seconds.
// Run it with: npm run example -- firstRun
import { Environment, Session, Task, Tokenizer } from "quintain"

// Your task: write the larger of two digits. The model sees the prompt; only the reward sees `data`.
const questions = Array.from({ length: 100 }, (_, index) => {
  const [a, b] = [Math.floor(index / 10), index % 10]
  return { id: `${a},${b}`, prompt: `${a},${b}=`, data: { larger: Math.max(a, b) } }
})
const { train, heldOut } = Task.split(Task.fromArray(questions), { heldOut: 20, seed: 1 })

// A new model with 100,000 random weights. To train an existing model, give its name or folder instead.
const tokenizer = Tokenizer.characters("0123456789,=")
const model = {
  vocab_size: tokenizer.vocabularySize,
  hidden_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  intermediate_size: 172
}

await using session = await Session.open({ model, tokenizer, seed: 1 })
const { before, after } = await session.grpo({
  tasks: train,
  heldOut,
  environment: Environment.singleTurn({ maxTokens: 1 }),
  // Your reward: a number for each answer.
  reward: ({ task, trajectory }) => (trajectory.text === String(task.data.larger) ? 1 : 0),
  steps: 100,
  update: { learningRate: 2e-3 },
  directory: `runs/first-run-${Date.now()}` // the record of the run, and what a killed run continues from
})
console.log(`right answers to the held-out questions: ${100 * before!} % before, ${100 * after!} % after`)
