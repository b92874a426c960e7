import { assert, describe, it } from "@effect/vitest"
import * as fs from "node:fs"
import * as path from "node:path"
import * as ChatTemplate from "../../../src/text/ChatTemplate.ts"
import type { Message } from "../../../src/text/Conversation.ts"

const folder = path.join(import.meta.dirname, "../../fixtures/tokenizers")

interface Chat {
  readonly template: string
  readonly bos: string | null
  readonly eos: string
  readonly messages: ReadonlyArray<Message>
  readonly options: {
    readonly tools?: ReadonlyArray<object>
    readonly documents?: ReadonlyArray<object>
    readonly add_generation_prompt?: boolean
  }
  readonly text?: string
  readonly error?: string
}
const chats = JSON.parse(fs.readFileSync(path.join(folder, "chats.json"), "utf8")) as ReadonlyArray<Chat>

const thrown = (work: () => unknown): unknown => {
  try {
    work()
  } catch (error) {
    return error
  }
  return undefined
}
const messages: ReadonlyArray<Message> = [{ role: "user", content: "hé" }]
const render = (source: ChatTemplate.Sources, settings: Partial<ChatTemplate.ChatTemplateSettings> = {}) =>
  ChatTemplate.make(source, { file: "here", ...settings }).render(messages)

describe("conversations, against apply_chat_template of transformers", () => {
  for (const [index, { bos, eos, messages, options, template, ...expected }] of chats.entries()) {
    it(`${template} ${index}`, () => {
      const { add_generation_prompt: addGenerationPrompt = false, documents, tools, ...variables } = options
      const source = fs.readFileSync(path.join(folder, "templates", `${template}.jinja`), "utf8")
      const tokens = { eos_token: eos, ...(bos === null ? {} : { bos_token: bos }) }
      const made = ChatTemplate.make(source, { file: template, variables: tokens })
      const work = () =>
        made.render(messages, {
          addGenerationPrompt,
          variables,
          ...(tools === undefined ? {} : { tools }),
          ...(documents === undefined ? {} : { documents })
        })
      if (expected.error === undefined) assert.strictEqual(work(), expected.text)
      else {
        const error = thrown(work)
        assert.instanceOf(error, ChatTemplate.TemplateError)
        assert.strictEqual(error.problem, expected.error)
      }
    })
  }
})

describe("templates from outside", () => {
  const refused = (source: string, says: RegExp, settings: Partial<ChatTemplate.ChatTemplateSettings> = {}) => {
    const error = thrown(() => render(source, settings))
    assert.instanceOf(error, ChatTemplate.TemplateError)
    assert.match(error.message, says)
  }

  it("are refused when they are none", () => {
    refused("{% if x", /here, chat template: /)
    refused("{% endfor %}", /here, chat template: /)
    refused("x".repeat(2 ** 20 + 1), /1048577 characters/)
  })

  it("cannot run for ever or fill the memory", () => {
    const loop = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"
    refused(loop, /took more than 50 ms/, { milliseconds: 50 })
    refused("{% for i in range(10000000) %}{% endfor %}", /range\(\) of 10000000 numbers/)
    refused("{% for i in range(0, 1, 0) %}{% endfor %}", /range/)
    const doubling =
      "{% set ns = namespace(s='x') %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}"
    refused(doubling, /too much text/)
    const lists = "{% set ns = namespace(a=[1]) %}{% for i in range(40) %}{% set ns.a = ns.a + ns.a %}{% endfor %}"
    refused(lists, /too long lists/)
    const kept =
      "{% set b = range(90000) %}{% set ns = namespace(a=[]) %}" +
      "{% for i in b %}{% set ns.a = [b + b, ns.a] %}{% endfor %}"
    refused(kept, /too long lists/)
    refused("{{ messages | tojson(indent=400000000) }}", /chat template/)
  })

  it("see what they are given and nothing else", () => {
    assert.strictEqual(render("{{ messages[0].constructor }}{{ process }}{{ messages[0].__proto__ }}"), "")
    refused("{{ messages.constructor.constructor('return process')() }}", /chat template/)
  })

  it("know the date that they are told", () => {
    const now = () => new Date(2026, 0, 5, 14, 7)
    assert.strictEqual(render("{{ strftime_now('%d %b %Y, %A %I:%M %p') }}", { now }), "05 Jan 2026, Monday 02:07 PM")
  })

  it("are chosen by name where there are tools", () => {
    const made = ChatTemplate.make({ default: "plain", tool_use: "tools: {{ tools | length }}" }, { file: "here" })
    assert.strictEqual(made.render(messages), "plain")
    assert.strictEqual(made.render(messages, { tools: [] }), "plain")
    assert.strictEqual(made.render(messages, { tools: [{}, {}] }), "tools: 2")
    assert.throws(() => ChatTemplate.make({ other: "" }, { file: "here" }), /no template is named default/)
  })

  it("write JSON as Python does", () => {
    assert.strictEqual(render("{{ messages | tojson }}"), '[{"role": "user", "content": "hé"}]')
    assert.strictEqual(render("{{ messages[0] | tojson(indent=2) }}"), '{\n  "role": "user",\n  "content": "hé"\n}')
  })
})
