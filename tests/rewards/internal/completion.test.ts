import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import {
  answerPart,
  continued,
  dedent,
  extractCode,
  fencedBlocks,
  preambleOf
} from "../../../rewards/internal/completion.ts"

const source = (text: string, entry?: string): string => extractCode(text, { entry }).source
const python = { languages: ["python"] } as const

describe("code in completions", () => {
  it("is the whole answer where nothing is fenced", () => {
    assert.deepStrictEqual(extractCode("x"), { source: "x", language: undefined, indent: 0, fenced: false })
    assert.strictEqual(source(""), "")
  })

  it("finds fences of backticks and tildes, of any label and length, closed or not", () => {
    for (const [text, wanted, language] of [
      ["a\n```js\nb\n```\nc", "b\n", "javascript"],
      ["a\n~~~~js\n```\nb\n~~~~\nc", "```\nb\n", "javascript"],
      ["```python\nb\n```", "b\n", "python"],
      ["```Python3\nb\n```", "b\n", "python"],
      ["``` {.python .numberLines}\nb\n```", "b\n", "python"],
      ["```python title=a.py\nb\n```", "b\n", "python"],
      ["```ts\nb", "b", "typescript"],
      ["```ts\nb```", "b", "typescript"],
      ["```ts\nb\n```` \n", "b\n", "typescript"],
      ["```\r\nb\r\n```\r\n", "b\r\n", undefined],
      ["```brainfuck\nb\n```", "b\n", undefined],
      ["```js\n```\n", "```js\n```\n".slice(0, 0), "javascript"]
    ] as const) {
      const code = extractCode(text)
      assert.strictEqual(code.source, wanted, text)
      assert.strictEqual(code.language, language, text)
    }
    assert.strictEqual(source("it is `code` and ```more``` of it"), "it is `code` and ```more``` of it")
  })

  it("takes the last block that defines the entry", () => {
    const first = "```js\nconst add = (a, b) => a - b\n```\n"
    const second = "Better:\n```js\nfunction add(a, b) { return a + b }\n```\n"
    const usage = "Use it:\n```js\nconsole.log(add(1, 2), bladder, addition)\n```\nPrints:\n```text\n3\n```\n"
    assert.strictEqual(source(first + second + usage, "add"), "function add(a, b) { return a + b }\n")
    assert.strictEqual(source(first + usage, "add"), "const add = (a, b) => a - b\n")
    // without an entry, the last that can be a program
    assert.strictEqual(source(first + usage), "console.log(add(1, 2), bladder, addition)\n")
    assert.strictEqual(source("```\nx\n```\n```bash\nnode x\n```"), "x\n")
    assert.strictEqual(source("```bash\nnode x\n```"), "node x\n")
  })

  it("knows a definition from a mention", () => {
    const usage = "\n```\nprint(add(1))\nadd == 2\nxadd = 1\nadd2 = 1\nf(add => 1)\n```"
    for (const definition of [
      "def add(a):\n  return a",
      "async def add(a): pass",
      "class add: pass",
      "add = lambda a: a",
      "add: Callable = f",
      "function add() {}",
      "function* add() {}",
      "async function add() {}",
      "export default function add() {}",
      "let add = 1",
      "var add",
      "exports.add = f",
      "module.exports = { add: (a) => a }",
      "globalThis.add = f",
      "x = 1; add = 2"
    ]) {
      assert.strictEqual(source(`\`\`\`\n${definition}\n\`\`\`${usage}`, "add"), `${definition}\n`, definition)
    }
    assert.strictEqual(source("```\nconst $a = 1\n```\n```\n$a\n```", "$a"), "const $a = 1\n")
    // what could be a pattern is a name
    assert.strictEqual(source("```\ndef a.b(): 1\n```\n```\ndef aXb(): 1\n```", "a.b"), "def a.b(): 1\n")
  })

  it("prefers the wanted language, and says which one it found", () => {
    const text = "```python\ndef add(a, b): pass\n```\n```js\nconst add = 1\n```\n"
    assert.deepInclude(extractCode(text, { entry: "add", ...python }), { language: "python" })
    assert.deepInclude(extractCode(text, { entry: "add", languages: ["javascript"] }), { language: "javascript" })
    assert.deepInclude(extractCode("```js\nconst add = 1\n```", { entry: "add", ...python }), {
      language: "javascript"
    })
  })

  it("takes nested fences for what they are", () => {
    const docstring = 'def f():\n    """\n    ```python\n    f()\n    ```\n    """\n    return 1\n'
    assert.strictEqual(source(`\`\`\`python\n${docstring}\`\`\``, "f"), docstring)
    assert.strictEqual(source("```markdown\n# Answer\n```python\ndef f(): 1\n```\n```\n", "f"), "def f(): 1\n")
    assert.strictEqual(source("```\n```python\ndef f(): 1\n```\n```\n"), "def f(): 1\n")
    assert.strictEqual(source("````md\n```js\nf = 1\n```\n````\n"), "f = 1\n")
    const template = "const f = () => `\n```js\nx\n```\n`\n"
    assert.strictEqual(source(`\`\`\`js\n${template}\`\`\`\n`, "f"), template)
    // never closed, then opened again
    assert.strictEqual(source("```js\nconst f = 1\nor rather:\n```js\nconst f = 2\n```\n", "f"), "const f = 2\n")
    assert.strictEqual(source("```js\nconst f = 1\nthen\n```bash\nls\n```\n", "f"), "const f = 1\nthen\n")
  })

  it("passes over thoughts", () => {
    const answer = "```js\nconst f = 2\n```"
    const thought = "```js\nconst f = 1\n```"
    for (const text of [
      `<think>${thought}</think>${answer}`,
      `${thought}</think>\n${answer}`,
      `<thinking>${thought}</thinking>${answer}`,
      `<think>a</think>${thought}<think>b</think>${answer}`,
      `${answer}\n<think>\n${thought}`
    ]) {
      assert.strictEqual(source(text, "f"), "const f = 2\n", text)
    }
    assert.strictEqual(source(`<think>${thought}`, "f"), "")
    assert.deepStrictEqual(answerPart("a"), { start: 0, end: 1 })
  })

  it("finds code whose fence the prompt has opened", () => {
    assert.strictEqual(source("def f(): 1\n```\n", "f"), "def f(): 1\n")
    assert.strictEqual(source("def f(): 1\n```\nIt returns nothing.", "f"), "def f(): 1\n")
  })

  it("takes the indentation of a list off", () => {
    const code = extractCode("1. So:\n   ```py\n   def f():\n     return 1\n\n\tx\n   ```\n", { entry: "f" })
    assert.strictEqual(dedent(code), "def f():\n  return 1\n\nx\n")
    assert.strictEqual(dedent({ source: " a\n  b", indent: 0 }), " a\n  b")
  })

  it("continues a prompt", () => {
    const prompt = 'import math\n\ndef help(x):\n    return x\n\n\ndef f(x):\n    """ adds """\n'
    const preamble = "import math\n\ndef help(x):\n    return x\n\n\n"
    assert.strictEqual(preambleOf(prompt, "f"), preamble)
    assert.strictEqual(preambleOf(prompt, "g"), "")
    const body = "    return help(x) + 1\n"
    for (const text of [
      body,
      `\n${body}`,
      `${body}\ndef g():\n    pass\n`,
      `${body}\nprint(f(1))`,
      `${body}\`\`\`\n`,
      `${body}\`\`\`\nThis is it.`,
      `\`\`\`python\n${body}\`\`\``,
      `<think>\nhm\n</think>${body}`,
      // base models say it again
      `${body}\n\ndef f(x):\n${body}`,
      ` Sure:\n\`\`\`python\n${body}\`\`\``
    ]) {
      const program = continued(prompt, text, "f")
      assert.isTrue(program.startsWith(prompt), text)
      assert.strictEqual(program.slice(prompt.length).trim(), body.trim(), text)
      assert.include(program, `\n${body}`, text)
    }
    for (const text of [
      "def f(x):\n    return help(x)\n",
      " Sure:\n```python\ndef f(x):\n    return help(x)\n```\nDone."
    ]) {
      assert.strictEqual(continued(prompt, text, "f"), `${preamble}\ndef f(x):\n    return help(x)\n`)
    }
    const future = "from __future__ import annotations\ndef f(x): return x\n"
    assert.strictEqual(continued(prompt, future, "f"), future)
    // triple quotes in the body are no end of it
    assert.include(continued(prompt, "    x = '''\nclassic\n'''\n    return x\n", "f"), "return x")
  })
})

describe("properties of the code extractor", () => {
  const piece = fc.constantFrom(
    ..."\n|\n\n|\r\n| |    |\t|```|````|~~~|```js|```python|`|~|def f(): 1|const f = 2|f|f = |prose|<think>|</think>|\u2028|\ud800|é".split(
      "|"
    )
  )
  const chat = fc.oneof(
    fc.string({ unit: "binary", maxLength: 60 }),
    fc.array(piece, { maxLength: 40 }).map((all) => all.join(""))
  )

  it("the source is part of the text, and blocks lie in order within it", () => {
    fc.assert(
      fc.property(chat, fc.constantFrom(undefined, "f"), (text, entry) => {
        const code = extractCode(text, { entry })
        assert.include(text, code.source)
        dedent(code)
        continued(text, text, "f")
        for (const [index, block] of fencedBlocks(text).entries()) {
          assert.isTrue(0 <= block.start && block.start <= block.end && block.end <= text.length)
          if (index > 0) assert.isTrue(fencedBlocks(text)[index - 1]!.start < block.start)
        }
      }),
      { numRuns: 2000 }
    )
  })

  it("what has no fence and no thought is left as it is", () => {
    fc.assert(
      fc.property(chat, (text) => {
        fc.pre(!/`{3}|~{3}|<\/?think/.test(text))
        assert.strictEqual(extractCode(text).source, text)
      })
    )
  })

  it("code in a longer fence comes back unchanged, whatever it holds", () => {
    fc.assert(
      fc.property(chat, fc.constantFrom("js", "python", "ts"), (text, label) => {
        fc.pre(!text.includes("think") && text.trim() !== "")
        const fence = "`".repeat(100)
        const wrapped = `prose\n\n${fence}${label}\n${text}\n${fence}\nmore prose\n`
        const once = extractCode(wrapped).source
        assert.strictEqual(once, `${text}\n`)
      }),
      { numRuns: 1000 }
    )
  })

  it("hostile text costs what its length costs", () => {
    const size = 4e5
    const cost = (text: string): number => {
      const start = process.cpuUsage()
      extractCode(text, { entry: "f" })
      continued(text, text, "f")
      return process.cpuUsage(start).user
    }
    cost("x ".repeat(size / 2))
    for (const part of [
      "```a\n",
      "```\n",
      "~~~a\n```\n",
      "f ",
      "f = ",
      "f:",
      " ",
      "\n",
      "\t",
      "`",
      "```",
      "<think>",
      "</think>",
      "def ",
      "function * ",
      "``` a"
    ]) {
      const small = cost(part.repeat(size / 4 / part.length))
      const large = cost(part.repeat(size / part.length))
      // quadratic would be 16 times as much, and of these sizes hours
      assert.isBelow(large, 10 * small + 3e5, JSON.stringify(part))
    }
  })
})
