import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import fc from "fast-check"
import { jsonSchema, type JsonSchemaOptions, type SchemaLike } from "../../rewards/index.ts"
import type { Scored } from "../../src/Verifier.ts"
import { trajectory } from "../fixtures/trajectories.ts"

const judge = (schema: SchemaLike, text: string, options?: JsonSchemaOptions): Omit<Scored, "_tag"> =>
  jsonSchema(
    schema,
    options
  )({
    task: { id: "t", prompt: "", data: undefined },
    trajectory: trajectory(text),
    signal: new AbortController().signal
  }) as Omit<Scored, "_tag">
const score = (schema: SchemaLike, value: unknown): number => judge(schema, JSON.stringify(value)).score

const Call = Schema.Struct({
  name: Schema.Literals(["add", "multiply"]),
  arguments: Schema.Struct({ a: Schema.Int, b: Schema.Int })
})

describe("jsonSchema", () => {
  it("takes an effect Schema", () => {
    assert.strictEqual(score(Call, { name: "add", arguments: { a: 1, b: 2 } }), 1)
    assert.strictEqual(score(Call, { name: "power", arguments: { a: 1, b: 2 } }), 0)
    assert.strictEqual(score(Call, { name: "add", arguments: { a: 1.5, b: 2 } }), 0)
    const Named = Schema.Struct({ value: Schema.Finite }).annotate({ identifier: "Named" })
    assert.strictEqual(score(Schema.Array(Named), [{ value: 1 }]), 1)
    assert.strictEqual(score(Schema.Array(Named), [{ value: "1" }]), 0)
  })

  it("takes a JSON Schema of draft 2020-12, or one by task", () => {
    const schema = { type: "array", prefixItems: [{ type: "integer" }, { type: "string" }], items: false }
    assert.strictEqual(score(schema, [1, "a"]), 1)
    assert.strictEqual(score(schema, [1, "a", 2]), 0)
    assert.strictEqual(score({ $defs: { n: { type: "number" } }, $ref: "#/$defs/n" }, 1), 1)
    assert.strictEqual(score(false, 1), 0)
    const byTask = jsonSchema<{ schema: SchemaLike }>((task) => task.data.schema)
    for (const [type, wanted] of [
      ["number", 1],
      ["string", 0]
    ] as const) {
      const task = { id: "t", prompt: "", data: { schema: { type } } }
      const verdict = byTask({ task, trajectory: trajectory("1"), signal: new AbortController().signal })
      assert.deepInclude(verdict, { score: wanted })
    }
  })

  it("finds the document, unless told to be strict", () => {
    const schema = { type: "object", required: ["a"] }
    for (const text of [
      '{"a":1}',
      ' {"a":1}\n',
      '```json\n{"a":1}\n```',
      'Here: {"a":"}"} and more {',
      'x ```\n{"a":1}\n```'
    ]) {
      assert.strictEqual(judge(schema, text).score, 1, text)
    }
    for (const text of ["", "{", '{"a":1', "{'a':1}", '{"a":1,}', "no", '{"b":1}', '[{"a":1}]']) {
      assert.strictEqual(judge(schema, text).score, 0, text)
    }
    assert.strictEqual(judge(schema, ' {"a":1} ', { strict: true }).score, 1)
    assert.strictEqual(judge(schema, 'Here: {"a":1}', { strict: true }).score, 0)
  })

  it("says why not", () => {
    assert.include(judge({ type: "object" }, "[]").reason!, "invalid:  must be object")
    assert.match(judge({}, "{").reason!, /^no JSON: /)
    assert.include(judge({ properties: { a: { type: "string" } } }, '{"a":1}').reason!, "/a must be string")
  })

  it("tells patterns apart", () => {
    const schema = {
      properties: { a: { pattern: "^a+$" }, b: { pattern: "^b+$" } },
      patternProperties: { "^x": { type: "number" }, "^y": { type: "string" } }
    }
    assert.strictEqual(score(schema, { a: "aa", b: "bb", x1: 1, y1: "s" }), 1)
    assert.strictEqual(score(schema, { a: "aa", b: "aa" }), 0)
    assert.strictEqual(score(schema, { a: "bb" }), 0)
    assert.strictEqual(score(schema, { x1: "s" }), 0)
    assert.strictEqual(score(schema, { y1: 1 }), 0)
    assert.strictEqual(score({ pattern: "^\\p{Lu}\\d{2}$" }, "Ä42"), 1)
    assert.strictEqual(score({ pattern: "^\\p{Lu}\\d{2}$" }, "ä42"), 0)
  })

  it("refuses patterns that no linear-time engine has", () => {
    assert.throws(() => jsonSchema({ pattern: "(?=a)b" }))
    assert.throws(() => jsonSchema({ pattern: "(a)\\1" }))
  })

  // Each of these takes seconds to forever without its guard; the runner's own limit is what fails.
  it("is not slowed down by hostile schemas and documents", () => {
    assert.strictEqual(score({ pattern: "^(a+)+$" }, `${"a".repeat(50_000)}!`), 0)
    assert.strictEqual(score({ pattern: "^([a-z]|[a-z0-9])*$" }, `${"a".repeat(50_000)}!`), 0)
    const items = Array.from({ length: 8000 }, (_, index) => ({ i: index }))
    const long = { maxCharacters: 1_000_000 }
    assert.strictEqual(judge({ uniqueItems: true }, JSON.stringify(items), long).score, 1)
    assert.strictEqual(judge({ uniqueItems: true }, JSON.stringify([...items, { i: 5 }]), long).score, 0)
    const deep = `${"[".repeat(20_000)}${"]".repeat(20_000)}`
    assert.include(judge({ items: { $ref: "#" } }, deep).reason!, "nested deeper than 100")
    assert.include(judge({}, `"${"x".repeat(70_000)}"`).reason!, "longer than 65536")
    assert.include(judge({}, "x".repeat(300_000)).reason!, "longer than 262144")
  })

  it("uniqueItems is equality of JSON", () => {
    assert.strictEqual(score({ uniqueItems: true }, [1, "1", true, null, [1], ["1"], { a: 1 }, "[1]", "null"]), 1)
    assert.strictEqual(judge({ uniqueItems: true }, '[{"a":1,"b":2},{"b":2,"a":1}]').score, 0)
    assert.strictEqual(judge({ uniqueItems: true }, "[1,1.0]").score, 0)
    assert.strictEqual(score({ uniqueItems: false }, [1, 1]), 1)
  })

  it("sees own properties only, and decimal multiples", () => {
    assert.strictEqual(score({ required: ["constructor"] }, {}), 0)
    assert.strictEqual(score({ properties: { toString: { type: "number" } } }, {}), 1)
    assert.strictEqual(judge({ required: ["__proto__"] }, '{"__proto__":1}').score, 1)
    assert.strictEqual(score({ multipleOf: 0.1 }, 0.3), 1)
    assert.strictEqual(score({ multipleOf: 0.1 }, 0.35), 0)
  })

  it("the same $id in two schemas is no conflict, and forgets what is old", () => {
    assert.strictEqual(score({ $id: "https://example.org/s", type: "string" }, 1), 0)
    assert.strictEqual(score({ $id: "https://example.org/s", type: "number" }, 1), 1)
    for (const [type, wanted] of [
      ["number", 1],
      ["string", 0]
    ] as const) {
      const schema = { $defs: { n: { type } }, properties: { n: { $ref: "#/$defs/n" }, next: { $ref: "#" } } }
      assert.strictEqual(score(schema, { n: 1 }), wanted)
      assert.strictEqual(score(schema, { next: { next: { n: 1 } } }), wanted)
    }
    for (let index = 0; index < 600; index++) assert.strictEqual(score({ const: index }, index), 1)
    assert.strictEqual(score({ const: 0 }, 1), 0)
  })

  it("any text gets a verdict of 0 or 1", () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.json(),
          fc.string({ unit: fc.constantFrom("{", "}", "[", "]", '"', "`", "\n", "a", "\\") })
        ),
        (text) => {
          assert.include([0, 1], judge({ type: "object" }, text).score)
        }
      )
    )
    fc.assert(fc.property(fc.json(), (text) => assert.strictEqual(judge(true, text).score, 1)))
  })
})
