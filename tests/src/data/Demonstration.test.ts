import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import * as Demonstration from "../../../src/data/Demonstration.ts"
import type { Message } from "../../../src/data/Task.ts"
import * as Tokenizer from "../../../src/text/Tokenizer.ts"

const tokenizer = Tokenizer.bytes()
const END = tokenizer.endOfText

const file = (lines: ReadonlyArray<unknown>) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const folder = await fs.mkdtemp(path.join(os.tmpdir(), "quintain-demonstration-"))
      const name = path.join(folder, "data.jsonl")
      await fs.writeFile(name, lines.map((line) => (typeof line === "string" ? line : JSON.stringify(line))).join("\n"))
      return name
    }),
    (name) => Effect.promise(() => fs.rm(path.dirname(name), { recursive: true }))
  )

const call = { type: "function", function: { name: "add", arguments: { a: 1 } } } as const
const conversation: ReadonlyArray<Message> = [
  { role: "system", content: "S" },
  { role: "user", content: "U" },
  { role: "assistant", content: "", tool_calls: [call] },
  { role: "tool", content: "T" },
  { role: "assistant", content: "A" }
]
const tools = [{ type: "function", function: { name: "add" } }]

const encode = (demonstration: Demonstration.Demonstration, options?: Demonstration.EncodeOptions) =>
  Effect.map(
    Demonstration.encode(Demonstration.fromArray([demonstration]), tokenizer, options),
    ({ examples }) => examples[0]!
  )

/** Text of each run of targets, with `$` for the end of text. */
const learnt = ({ target, tokens }: Demonstration.Example): ReadonlyArray<string> => {
  const parts: Array<string> = []
  for (let i = 0; i < tokens.length; i++) {
    if (target[i] !== 1) continue
    if (target[i - 1] !== 1) parts.push("")
    parts.push(parts.pop()! + (tokens[i] === END ? "$" : tokenizer.decode([tokens[i]!]) || "#"))
  }
  return parts
}
const CALL = '<tool_call>{"name":"add","arguments":{"a":1}}</tool_call>$'

describe("Demonstration.encode", () => {
  it.effect("learns every turn of the assistant, its end included, and nothing else", () =>
    Effect.gen(function* () {
      const example = yield* encode({ messages: conversation, tools })
      assert.deepStrictEqual(learnt(example), [CALL, "A$"])
      const rendered = tokenizer.renderTurns!(conversation, { tools }).flatMap(({ tokens }) => Array.from(tokens))
      assert.deepStrictEqual(Array.from(example.tokens), rendered)
    })
  )

  it.effect("learns the assistant's turns of a completion, or all of the completion", () =>
    Effect.gen(function* () {
      const split = { prompt: conversation.slice(0, 2), completion: conversation.slice(2) }
      assert.deepStrictEqual(learnt(yield* encode(split)), [CALL, "A$"])
      const all = yield* encode(split, { assistantOnlyLoss: false })
      assert.deepStrictEqual(learnt(all), [`${CALL}#T$#A$`])
      const last = { prompt: conversation.slice(0, 4), completion: conversation.slice(4) }
      assert.deepStrictEqual(learnt(yield* encode(last)), ["A$"])
      assert.deepStrictEqual(learnt(yield* encode(last, { completionOnlyLoss: false })), [CALL, "A$"])
      const everything = yield* encode({ messages: conversation }, { assistantOnlyLoss: false })
      assert.strictEqual(
        everything.target.reduce((a, b) => a + b),
        everything.tokens.length - 1
      )
    })
  )

  it.effect("learns completions of text, and text", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(learnt(yield* encode({ prompt: "12+7=", completion: "19" })), ["19$"])
      const both = yield* encode({ prompt: "12+7=", completion: "19" }, { completionOnlyLoss: false })
      assert.deepStrictEqual(learnt(both), ["2+7=19$"])
      assert.deepStrictEqual(learnt(yield* encode({ text: "abc" })), ["bc$"])
    })
  )

  it.effect("puts what stands before a text before texts, not before conversations", () =>
    Effect.gen(function* () {
      const begun = { ...tokenizer, startOfText: 7 }
      const tokensOf = (demonstration: Demonstration.Demonstration) =>
        Effect.map(
          Demonstration.encode(Demonstration.fromArray([demonstration]), begun),
          ({ examples: [example] }) => ({
            first: example!.tokens[0],
            learnt: learnt(example!)
          })
        )
      assert.deepStrictEqual(yield* tokensOf({ prompt: "a", completion: "b" }), { first: 7, learnt: ["b$"] })
      assert.deepStrictEqual(yield* tokensOf({ text: "ab" }), { first: 7, learnt: ["ab$"] })
      assert.strictEqual((yield* tokensOf({ messages: conversation })).first, 257)
    })
  )

  it.effect("tells the chat template what TRL's column says", () =>
    Effect.gen(function* () {
      const seen: Array<unknown> = []
      const watched: Tokenizer.Tokenizer = {
        ...tokenizer,
        renderTurns: (messages, options) => {
          seen.push(options)
          return tokenizer.renderTurns!(messages, options)
        }
      }
      const chat_template_kwargs = { enable_thinking: false }
      const name = yield* file([{ messages: conversation, tools, chat_template_kwargs }])
      yield* Demonstration.encode(Demonstration.jsonl(name), watched)
      assert.deepStrictEqual(seen, [{ tools, variables: chat_template_kwargs }])
    })
  )

  it.effect("cuts to the length, and counts what it cut and what was left without a target", () =>
    Effect.gen(function* () {
      const source = Demonstration.fromArray([
        { prompt: "ab", completion: "cdef" },
        { prompt: "abcdef", completion: "g" },
        { prompt: "a", completion: "b" }
      ])
      const start = yield* Demonstration.encode(source, tokenizer, { maxLength: 4 })
      assert.deepStrictEqual([start.truncated, start.dropped], [2, 1])
      assert.deepStrictEqual(start.examples.map(learnt), [["cd"], ["b$"]])
      const end = yield* Demonstration.encode(source, tokenizer, { maxLength: 4, truncationMode: "keep_end" })
      assert.deepStrictEqual([end.truncated, end.dropped], [2, 0])
      // The first token of what is left has nothing before it that could predict it.
      assert.deepStrictEqual(end.examples.map(learnt), [["ef$"], ["g$"], ["b$"]])
      const none = yield* Effect.flip(Demonstration.encode(source, tokenizer, { maxLength: 1 }))
      assert.strictEqual(none.field, "maxLength")
    })
  )

  it.effect("says which demonstration cannot be learnt from", () =>
    Effect.gen(function* () {
      const refused = (demonstration: Demonstration.Demonstration, by: Tokenizer.Tokenizer = tokenizer) =>
        Effect.flip(Demonstration.encode(Demonstration.fromArray([{ text: "ok" }, demonstration], "mine"), by))
      const silent = yield* refused({ messages: conversation.slice(0, 2) })
      assert.match(silent.message, /^mine, index 1: has no target tokens.*assistant's turn/)
      assert.match((yield* refused({ text: "\ud800" })).message, /index 1: cannot be rendered: .*no token for/)
      const plain = Tokenizer.characters("ok")
      assert.match(
        (yield* refused({ messages: conversation }, plain)).message,
        /tokenizer is "characters\(2\)"; expected a tokenizer with a chat template/
      )
      const empty = yield* Effect.flip(Demonstration.encode(Demonstration.fromArray([]), tokenizer))
      assert.match(empty.message, /holds no demonstration/)
    })
  )
})

describe("Demonstration.jsonl", () => {
  it.effect("reads every form of TRL's data sets", () =>
    Effect.gen(function* () {
      const messages = [
        { role: "user", content: "U" },
        { role: "assistant", content: "A" }
      ]
      const name = yield* file([
        { messages, tools, source: "passed over" },
        { messages, tools: JSON.stringify(tools), prompt: null },
        "",
        { prompt: "p", completion: "c" },
        { prompt: messages.slice(0, 1), completion: messages.slice(1), tools: null },
        { text: "t" }
      ])
      const { place, values } = yield* Demonstration.jsonl(name).load
      assert.deepStrictEqual<unknown>(values, [
        { messages, tools },
        { messages, tools },
        { prompt: "p", completion: "c" },
        { prompt: messages.slice(0, 1), completion: messages.slice(1) },
        { text: "t" }
      ])
      assert.strictEqual(place(2), "line 4")
    })
  )

  it.effect("names the line, the field, the value and the remedy", () =>
    Effect.gen(function* () {
      for (const [line, field, expected] of [
        ["{", "", /not JSON/],
        ["[1]", "", /object/i],
        [{ message: [] }, "", /neither `messages`.*found \["message"\]/],
        [{ messages: [] }, "messages", /messages/],
        [{ messages: [{ role: "robot", content: "" }] }, "messages.0.role", /found "robot"/],
        [{ messages: [{ role: "user" }] }, "messages.0", /needs content/],
        [
          { messages: [{ role: "user", content: [{ type: "image" }] }] },
          "messages.0.content",
          /found \[\{"type":"image"\}\]/
        ],
        [{ prompt: "p" }, "completion", /Give text/],
        [{ prompt: "p", completion: [] }, "completion", /Give text, as the prompt is/],
        [
          { prompt: [{ role: "user", content: "" }], completion: "c" },
          "completion",
          /Give messages, as the prompt has/
        ],
        [{ messages: conversation, tools: "{" }, "tools", /JSON schemas/],
        [{ text: 1 }, "text", /found 1/]
      ] as const) {
        const name = yield* file([{ text: "fine" }, line])
        const error = yield* Effect.flip(Demonstration.jsonl(name).load)
        assert.deepStrictEqual([error.source, error.place, error.field], [name, "line 2", field])
        assert.match(error.message, expected)
      }
    })
  )
})
