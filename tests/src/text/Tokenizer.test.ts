import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import * as Tokenizer from "../../../src/text/Tokenizer.ts"

const alphabet = "0123456789+=?é😀\n"

describe("characters", () => {
  const tokenizer = Tokenizer.characters(alphabet)

  it("numbers the alphabet in its order and ends with the end of text", () => {
    assert.strictEqual(tokenizer.vocabularySize, 17)
    assert.strictEqual(tokenizer.endOfText, 16)
    assert.deepStrictEqual(tokenizer.encode("12+7=?😀"), Uint32Array.of(1, 2, 10, 7, 11, 12, 14))
  })

  it("round trips every text of its alphabet", () => {
    const text = fc.array(fc.constantFrom(...Array.from(alphabet)), { maxLength: 40 }).map((parts) => parts.join(""))
    fc.assert(
      fc.property(text, (value) => {
        assert.strictEqual(tokenizer.decode(tokenizer.encode(value)), value)
      })
    )
  })

  it("refuses other text, saying where and what to do", () => {
    try {
      tokenizer.encode("1😀x")
      assert.fail("encoded a character that is not in the alphabet")
    } catch (error) {
      assert.instanceOf(error, Tokenizer.UnknownText)
      assert.strictEqual(error.character, "x")
      assert.strictEqual(error.position, 3)
      assert.include(error.message, "add it to the alphabet")
    }
  })

  it("refuses an alphabet with a character twice", () => {
    assert.throws(() => Tokenizer.characters("aba"), /Remove one of the two "a"/)
  })

  it("renders a conversation as its contents", () => {
    const messages = [
      { role: "user", content: "1+1=?" },
      { role: "assistant", content: "2" }
    ] as const
    assert.strictEqual(tokenizer.decode(tokenizer.render(messages)), "1+1=?\n2\n")
    assert.strictEqual(Tokenizer.characters("0123456789+=?").render(messages).length, 6)
  })
})

describe("bytes", () => {
  const tokenizer = Tokenizer.bytes()

  it("round trips every well-formed text", () => {
    fc.assert(
      fc.property(
        fc.string({ unit: "binary" }).filter((text) => text.isWellFormed()),
        (text) => {
          assert.strictEqual(tokenizer.decode(tokenizer.encode(text)), text)
        }
      )
    )
    assert.strictEqual(tokenizer.decode(tokenizer.encode("\uFEFFmark")), "\uFEFFmark")
  })

  it("refuses half a surrogate pair", () => {
    assert.throws(() => tokenizer.encode("ab\uD800"), Tokenizer.UnknownText, "position 2")
  })

  it("decodes any ids: specials vanish, what is outside or broken becomes U+FFFD", () => {
    assert.strictEqual(tokenizer.decode([104, 256, 105, 258]), "hi")
    assert.strictEqual(tokenizer.decode([104, 300, 105]), "h\uFFFDi")
    assert.strictEqual(tokenizer.decode([0xc3]), "\uFFFD")
  })

  it("renders roles as tokens of their own, up to the assistant's turn", () => {
    const rendered = tokenizer.render([
      { role: "system", content: "a" },
      { role: "user", content: "b" }
    ])
    assert.deepStrictEqual(rendered, Uint32Array.of(257, 97, 256, 258, 98, 256, 259))
  })
})

describe("a conversation of bytes", () => {
  const tokenizer = Tokenizer.bytes()
  const messages = [
    { role: "user", content: "1+2?" },
    { role: "assistant", content: "", tool_calls: [{ function: { name: "add", arguments: { a: 1 } } }] },
    { role: "tool", content: "3" },
    { role: "assistant", content: "3." }
  ] as const
  const tools = [{ type: "function" }]

  it("tells the assistant's turns apart, each after its prompt", () => {
    const pieces = tokenizer.renderTurns!(messages, { tools })
    const before: Array<number> = []
    const said: Array<string> = []
    for (const { message, producer, tokens } of pieces) {
      if (producer === "policy") {
        assert.deepStrictEqual(before, Array.from(tokenizer.render(messages.slice(0, message), { tools })))
        assert.strictEqual(tokens.at(-1), tokenizer.endOfText)
        said.push(tokenizer.decode(tokens))
      }
      before.push(...tokens)
    }
    assert.deepStrictEqual(said, ['<tool_call>{"name":"add","arguments":{"a":1}}</tool_call>', "3."])
  })

  it("continues after a turn as if it had been rendered at once", () => {
    const turn = Array.from(tokenizer.renderTurns!(messages.slice(0, 2)).at(-1)!.tokens)
    for (const ended of [true, false]) {
      const said = ended ? turn : turn.slice(0, -1)
      const tokens = [
        ...tokenizer.render(messages.slice(0, 1)),
        ...said,
        ...tokenizer.continuation!([messages[2]], { ended })
      ]
      assert.deepStrictEqual(tokens, Array.from(tokenizer.render(messages.slice(0, 3))))
    }
  })
})

describe("bytes of tokens", () => {
  it.each([Tokenizer.characters(alphabet), Tokenizer.bytes()])("of $name add up to the text", (tokenizer) => {
    const text = "12+é😀\n"
    const joined = [...tokenizer.encode(text)].flatMap((token) => [...tokenizer.bytes(token)])
    assert.strictEqual(new TextDecoder().decode(Uint8Array.from(joined)), text)
    assert.strictEqual(tokenizer.bytes(tokenizer.endOfText).length, 0)
    assert.strictEqual(tokenizer.bytes(10_000).length, 0)
  })
})

describe("stream", () => {
  it("gives the text of any tokens in whole characters", () => {
    for (const tokenizer of [Tokenizer.bytes(), Tokenizer.characters(alphabet)]) {
      const token = fc.integer({ min: 0, max: tokenizer.vocabularySize + 3 })
      fc.assert(
        fc.property(fc.array(token, { maxLength: 30 }), (tokens) => {
          const stream = tokenizer.stream()
          const parts = [...tokens.map(stream.push), stream.end()]
          assert.strictEqual(parts.join(""), tokenizer.decode(tokens))
          assert.isTrue(parts.every((part) => part.isWellFormed()))
        })
      )
    }
    const stream = Tokenizer.bytes().stream()
    assert.deepStrictEqual(Array.from(Tokenizer.bytes().encode("é😀"), stream.push), ["", "é", "", "", "", "😀"])
  })
})
