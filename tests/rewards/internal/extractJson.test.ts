import { assert, describe, it } from "@effect/vitest"
import fc from "fast-check"
import { parseJson, readJson, type JsonMode } from "../../../rewards/internal/extractJson.ts"

const max = 65_536
const read = (text: string, mode: JsonMode = "default"): unknown => {
  const found = readJson(text, max, mode)
  return "value" in found ? found.value : `fault: ${found.fault}`
}
const fault = (text: string, mode: JsonMode = "default"): string => {
  const found = readJson(text, max, mode)
  return "fault" in found ? found.fault : `value: ${JSON.stringify(found.value)}`
}

/** Small pieces of JSON: what they make is often nearly a document. */
const nearly = fc
  .array(
    fc.constantFrom(
      "{",
      "}",
      "[",
      "]",
      '"',
      '"a"',
      ":",
      ",",
      "1",
      "-",
      "0",
      ".5",
      "e9",
      "true",
      "null",
      " ",
      "\n",
      "\\",
      '\\"',
      "\\u00e9",
      "x"
    ),
    {
      maxLength: 14
    }
  )
  .map((parts) => parts.join(""))

const isJson = (text: string): boolean => {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

/** Documented faults that JSON.parse accepts. */
const ambiguous = /^(an object has a key twice|a number beyond)/

describe("parseJson", () => {
  it("reads what JSON.parse reads, and nothing else", () => {
    fc.assert(
      fc.property(fc.oneof(nearly, fc.json(), fc.string()), (text) => {
        const parsed = parseJson(text, max)
        if ("value" in parsed) assert.deepStrictEqual(parsed.value, JSON.parse(text))
        else if (isJson(text)) assert.match(parsed.fault, ambiguous)
      }),
      { numRuns: 5000 }
    )
  })

  it("refuses what two readers may read differently", () => {
    assert.include(fault('{"a":1,"a":2}'), "a key twice")
    assert.include(fault('[{"a":{"b":1,"\\u0062":2}}]'), "a key twice")
    assert.include(fault('{"__proto__":1,"__proto__":1}'), "a key twice")
    assert.deepStrictEqual(read('[{"a":1},{"a":2}]'), [{ a: 1 }, { a: 2 }])
    assert.include(fault("[1e999]"), "beyond the range")
    assert.include(fault("-1e999", "strict"), "beyond the range")
    assert.deepStrictEqual(read("[1e308]"), [1e308])
    assert.deepStrictEqual(Object.keys(read('{"__proto__":1}') as object), ["__proto__"])
  })

  it("says where", () => {
    assert.strictEqual(fault('{"a":1}x', "strict"), 'unexpected "x" at 7')
    assert.strictEqual(fault('{"a":', "strict"), "the text ends within the document")
    assert.strictEqual(fault("", "strict"), "the text ends within the document")
    assert.strictEqual(fault("[01]", "strict"), 'unexpected "1]" at 2')
  })

  it("is bounded in depth and length", () => {
    const nested = (depth: number) => "[".repeat(depth) + "]".repeat(depth)
    assert.notInclude(fault(nested(100)), "nested")
    assert.strictEqual(fault(nested(101)), "nested deeper than 100")
    assert.strictEqual(fault(`x ${nested(101)}`), "nested deeper than 100")
    assert.strictEqual(fault(`"${"x".repeat(max)}"`), `longer than ${max} characters`)
    assert.strictEqual(fault(`x [${"1,".repeat(max)}1]`), `longer than ${max} characters`)
    assert.strictEqual(fault("x".repeat(4 * max + 1)), `longer than ${4 * max} characters`)
  })
})

describe("readJson", () => {
  it("takes the text as a whole, then a block, then the first bracket", () => {
    for (const [text, value] of [
      [' "a [1] b"\n', "a [1] b"],
      ["42", 42],
      ["```json\n[1]\n```", [1]],
      ["[0] first\n```\n[1]\n```\n", [1]],
      ["```python\n[0]\n```\n~~~json\n[1]\n~~~", [1]],
      ["```\nno\n```\n```JSON5\n[1]\n```", [1]],
      ["````\n```\n[0]\n````\n```\n[1]", [1]],
      ["```\n5\n```", 5],
      ["```bash\n5\n``` then [1]", [1]],
      ['```json {"a":1}``` in a line', { a: 1 }],
      ["a [b] [1] [2]", [1]],
      ["{ {} }", {}],
      ['say "[1]', [1]],
      ['{"a": [2], oops', [2]],
      ['{"x [1] y": [2], oops', [1]],
      ["[1, [2, [3]", [3]],
      ["[[[]", []],
      ['it\'s {"a":"}]"} done', { a: "}]" }]
    ] as const) {
      assert.deepStrictEqual(read(text), value, text)
    }
    assert.strictEqual(fault("no"), "no object or array")
    assert.strictEqual(fault("a [b"), "no complete object or array")
    assert.strictEqual(read("x [1]", "strict"), 'fault: unexpected "x [1]" at 0')
    assert.deepStrictEqual(read(" [1]\n", "strict"), [1])
  })

  it("finds what a search by brute force finds", () => {
    fc.assert(
      fc.property(nearly, (text) => {
        if (isJson(text)) return
        let expected: string | undefined
        for (let from = 0; from < text.length && expected === undefined; from++) {
          if (!/[[{]/.test(text[from]!)) continue
          for (let to = from + 2; to <= text.length; to++)
            if (isJson(text.slice(from, to))) expected ??= text.slice(from, to)
        }
        const found = readJson(text, max)
        if ("value" in found) assert.deepStrictEqual(found.value, JSON.parse(expected!))
        else if (expected !== undefined) assert.match(found.fault, ambiguous)
      }),
      { numRuns: 20_000 }
    )
  })

  it("finds any document in prose, and reads its own writing", () => {
    const prose = fc.string({ unit: "binary" }).map((text) => text.replaceAll(/[[\]{}`~]/g, ""))
    const document = fc.oneof(fc.array(fc.jsonValue()), fc.dictionary(fc.string(), fc.jsonValue()))
    fc.assert(
      fc.property(prose, document, fc.string({ unit: "binary" }), (before, value, after) => {
        const written = JSON.stringify(value)
        // what a bracket would have to close again is not prose
        const text = `${before}x ${written}${after.replaceAll(/[`~]/g, "")}`
        assert.deepStrictEqual(read(text), JSON.parse(written))
        assert.deepStrictEqual(read(JSON.stringify(read(text))), read(text))
        assert.deepStrictEqual(read(`${before}\n\`\`\`json\n${written}\n\`\`\`\n`), JSON.parse(written))
      })
    )
  })

  it("never throws, in no mode", () => {
    fc.assert(
      fc.property(
        fc.oneof(nearly, fc.string(), fc.json(), fc.string({ unit: "binary" })),
        fc.constantFrom<JsonMode>("strict", "default", "lenient"),
        (text, mode) => {
          const found = readJson(text, max, mode)
          assert.strictEqual("value" in found, !("fault" in found))
        }
      ),
      { numRuns: 3000 }
    )
  })

  // each takes minutes where every bracket is read to the end of the text
  it("takes time linear in the text", () => {
    const length = 4 * max
    for (const unit of [
      "[",
      "{",
      '["',
      '{"',
      '{"a":',
      "[1,",
      '["[ ",',
      '[",',
      '[{"a":"[',
      '["\\"[',
      "[\n",
      '"[',
      '{"[":',
      "[[],",
      '[" {" ',
      "`",
      "```\n",
      "```\n[",
      "~~~\n{\n",
      "[-",
      "[1e",
      '{"a":[],"b":',
      " ",
      "\\",
      '["\\u00e9',
      "[tru"
    ]) {
      const text = `x ${unit.repeat(Math.floor((length - 2) / unit.length))}`
      const expected = unit === "[[]," || unit === '{"a":[],"b":' ? "value: []" : `longer than ${max} characters`
      assert.strictEqual(fault(text), expected, unit)
    }
  })

  it("reads JSON5 and Python's literals when it may", () => {
    for (const [text, value] of [
      ["{'a': 1, b: True, c: None,}", { a: 1, b: true, c: null }],
      ['```json\n{"a": 1 // one\n}\n```', { a: 1 }],
      ["{'a':1,'a':2}", { a: 2 }],
      ["{'a':'\u2028'}", { a: "\u2028" }],
      ["{a: 'True None', None: .5, xTrue: +1}", { a: "True None", null: 0.5, xTrue: 1 }],
      [`{'a':'${"x".repeat(20_000)}'}`, { a: "x".repeat(20_000) }]
    ] as const) {
      assert.include(fault(text), "complete object", text)
      assert.deepStrictEqual(readJson(text, max, "lenient"), { value, json5: true }, text)
    }
    // what is JSON is read as JSON
    assert.deepStrictEqual(readJson('x {"a":1}', max, "lenient"), { value: { a: 1 } })
    for (const text of ["no brackets at all", "", "just a 'quoted' text"])
      assert.include(fault(text, "lenient"), "no object")
    for (const text of [
      '{"a": [1, 2',
      'Here: {"a": "b',
      '{"a":1 "b":2}',
      "{a: NaN}",
      "{a: -Infinity}",
      "{'a':".repeat(3000)
    ])
      assert.include(fault(text, "lenient"), "no JSON5 either", text.slice(0, 40))
    assert.include(fault(`${"[".repeat(150)}1,${"]".repeat(150)}`, "lenient"), "nested deeper")
  })

  // a repairer of JSON took minutes for the first of these, whatever its clock
  it("takes linear time over what is no JSON5", () => {
    for (const unit of ["\n`a//(\\", "'", "'\\", '"', "[", "{a:", "/*", "True ", "0x", "\\u"]) {
      for (const start of ["{\nNone1", "["]) {
        const text = start + unit.repeat(Math.floor(60_000 / unit.length))
        assert.isString(fault(text, "lenient"), unit)
      }
    }
  })
})
