import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Conversation from "../../../src/text/Conversation.ts"

const decode = Schema.decodeUnknownEffect(Conversation.ConversationSchema)
const decodeMessage = Schema.decodeUnknownEffect(Conversation.MessageSchema)

describe("Conversation", () => {
  it.effect("reads null fields, which data sets with uniform columns have, as absent", () =>
    Effect.gen(function* () {
      const message = yield* decodeMessage({
        role: "user",
        content: "hello",
        name: null,
        tool_calls: null,
        tool_call_id: null,
        reasoning_content: null
      })
      assert.deepStrictEqual(message, { role: "user", content: "hello" })
    })
  )

  it.effect("keeps calls of tools, their ids, and the content null of a turn that only calls", () =>
    Effect.gen(function* () {
      const call = { id: "c1", type: "function" as const, function: { name: "add", arguments: { a: 1 } } }
      const message = yield* decodeMessage({ role: "assistant", content: null, tool_calls: [call] })
      assert.deepStrictEqual(message, { role: "assistant", content: null, tool_calls: [call] })
      const bare = { id: null, type: null, function: { name: "add", arguments: '{"a":1}' } }
      const parsed = yield* decodeMessage({ role: "assistant", tool_calls: [bare] })
      assert.deepStrictEqual(parsed.tool_calls, [{ function: { name: "add", arguments: '{"a":1}' } }])
    })
  )

  it.effect("refuses a message without content, except an assistant's that calls tools", () =>
    Effect.gen(function* () {
      for (const message of [
        { role: "user", content: null },
        { role: "assistant" },
        { role: "assistant", tool_calls: [] },
        { role: "tool", tool_calls: [{ function: { name: "f", arguments: {} } }] }
      ]) {
        const error = yield* Effect.flip(decodeMessage(message))
        assert.include(error.message, "a message needs content", JSON.stringify(message))
      }
      assert.include((yield* Effect.flip(decodeMessage({ role: "robot", content: "" }))).message, "role")
    })
  )

  it.effect("reads tools as an array or as its JSON text", () =>
    Effect.gen(function* () {
      const tools = [{ type: "function", function: { name: "add" } }]
      const messages = [{ role: "user", content: "1+1?" }]
      assert.deepStrictEqual((yield* decode({ messages, tools })).tools, tools)
      assert.deepStrictEqual((yield* decode({ messages, tools: JSON.stringify(tools) })).tools, tools)
      assert.include((yield* Effect.flip(decode({ messages: [] }))).message, "messages")
    })
  )

  it("tells a conversation from the other prompts", () => {
    const messages = [{ role: "user" as const, content: "hello" }]
    assert.isTrue(Conversation.isConversation({ messages }))
    for (const prompt of ["messages", messages, Uint32Array.of(1)]) {
      assert.isFalse(Conversation.isConversation(prompt))
    }
  })

  it("gives a tokenizer's options without fields that are absent", () => {
    assert.deepStrictEqual(Conversation.renderOptions({}), {})
    const tools = [{ type: "function" }]
    assert.deepStrictEqual(Conversation.renderOptions({ tools, chat_template_kwargs: { enable_thinking: false } }), {
      tools,
      variables: { enable_thinking: false }
    })
  })
})
