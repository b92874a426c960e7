import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import fc from "fast-check"
import { jsonSchema, type JsonSchemaOptions, type SchemaLike } from "../../../rewards/index.ts"
import type { Scored } from "../../../src/score/Verifier.ts"
import { trajectory } from "../../fixtures/trajectories.ts"
import { OptionError } from "quintain"

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

  it("the same $id in two schemas is not a conflict, and forgets what is old", () => {
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

  it("takes draft 7, by `$schema` or by option", () => {
    const tuple = { items: [{ type: "integer" }], additionalItems: false }
    const old = { $schema: "http://json-schema.org/draft-07/schema#", ...tuple }
    for (const schema of [
      [old, {}],
      [tuple, { draft: "7" }]
    ] as const) {
      assert.strictEqual(judge(schema[0], "[1]", schema[1]).score, 1)
      assert.strictEqual(judge(schema[0], "[1, 2]", schema[1]).score, 0)
      assert.strictEqual(judge(schema[0], '["a"]', schema[1]).score, 0)
    }
    assert.throws(() => judge(tuple, "[1]"), OptionError)
    // what draft 7 has not is not a keyword of it
    assert.strictEqual(judge({ dependentRequired: { a: ["b"] } }, '{"a":1}', { draft: "7" }).score, 1)
    assert.strictEqual(judge({ dependencies: { a: ["b"] } }, '{"a":1}', { draft: "7" }).score, 0)
    assert.strictEqual(
      judge({ $ref: "#/definitions/a", type: "string", definitions: { a: {} } }, "1", { draft: "7" }).score,
      1
    )
    assert.throws(() => judge({ $schema: "http://json-schema.org/draft-04/schema#" }, "1"), /draft 2020-12 nor draft 7/)
  })

  it("takes schemas of any library with Standard JSON Schema", () => {
    const standard = (documents: Readonly<Record<string, Record<string, unknown>>>) => ({
      "~standard": {
        version: 1 as const,
        vendor: "test",
        jsonSchema: {
          input: ({ target }: { readonly target: string }) => documents[target]!,
          output: () => ({ type: "null" })
        }
      }
    })
    const schema = standard({ "draft-2020-12": { type: "number" }, "draft-07": { items: [{ type: "string" }] } })
    assert.strictEqual(score(schema, 1), 1)
    assert.strictEqual(score(schema, "1"), 0)
    assert.strictEqual(judge(schema, '["a"]', { draft: "7" }).score, 1)
    assert.strictEqual(judge(schema, "[1]", { draft: "7" }).score, 0)
    // a schema that is a function, as arktype's are, is not a function of the task
    assert.strictEqual(
      score(
        Object.assign(() => ({ type: "null" }), schema),
        1
      ),
      1
    )
    assert.strictEqual(score(Schema.toStandardJSONSchemaV1(Call), { name: "add", arguments: { a: 1, b: 2 } }), 1)
    const without = { "~standard": { version: 1, vendor: "old", validate: () => ({ value: 1 }) } }
    assert.throws(() => score(without as never, 1), /A schema of old has no/)
  })

  it("resolves references in the schema and in what is given, and fetches nothing", () => {
    const schemas = { "https://example.org/n": { $defs: { n: { type: "number" } }, $ref: "#/$defs/n" } }
    const uses = { items: { $ref: "https://example.org/n" } }
    assert.strictEqual(judge(uses, "[1]", { schemas }).score, 1)
    assert.strictEqual(judge(uses, '["1"]', { schemas }).score, 0)
    assert.throws(() => judge(uses, "[1]"), /nothing is fetched/)
    assert.throws(() => judge({ $ref: "#/$defs/absent" }, "1"), /is not there/)
    assert.throws(() => judge({ $ref: "#absent" }, "1"), /is not there/)
    assert.throws(() => judge({ $ref: "file:///etc/passwd" }, "1"), /nothing is fetched/)
    assert.throws(() => judge({ $ref: "#/constructor" }, "1"), /is not there/)
    const anchored = {
      $defs: { a: { $id: "b/", $anchor: "x", type: "null" } },
      anyOf: [{ $ref: "b/#x" }, { $ref: "#/$defs/a" }]
    }
    assert.strictEqual(score(anchored, null), 1)
    assert.strictEqual(score(anchored, 1), 0)
    const meta = { $ref: "https://json-schema.org/draft/2020-12/schema" }
    assert.strictEqual(score(meta, { properties: { a: { type: "string" } } }), 1)
    assert.strictEqual(score(meta, { properties: { a: { type: "strin" } } }), 0)
  })

  it("extends recursive schemas by $dynamicRef", () => {
    const tree = {
      $id: "https://example.org/tree",
      $dynamicAnchor: "node",
      properties: { children: { type: "array", items: { $dynamicRef: "#node" } } }
    }
    const strict = {
      $id: "https://example.org/strict",
      $dynamicAnchor: "node",
      $ref: "tree",
      unevaluatedProperties: false,
      $defs: { tree }
    }
    assert.strictEqual(score(strict, { children: [{ children: [] }] }), 1)
    assert.strictEqual(score(strict, { children: [{ daat: 1 }] }), 0)
    assert.strictEqual(score(tree, { children: [{ daat: 1 }] }), 1)
  })

  it("asserts formats when asked to", () => {
    const formats: ReadonlyArray<readonly [string, string, string]> = [
      ["date", "2024-02-29", "2023-02-29"],
      ["email", "a.b@example.org", "a@b@c"],
      ["ipv4", "127.0.0.1", "256.0.0.1"],
      ["ipv6", "::1", "fe80::1%eth0"],
      ["hostname", "a-b.example", "-a.example"],
      ["uri", "https://example.org/a?b#c", "no uri"],
      ["uuid", "2eb8aa08-aa98-11ea-b4aa-73b441d16380", "2eb8aa08"],
      ["duration", "P1DT2H", "P1DT"],
      ["regex", "^a$", "^(a"]
    ]
    for (const [format, right, wrong] of formats) {
      assert.strictEqual(judge({ format }, JSON.stringify(right), { format: true }).score, 1, format)
      assert.strictEqual(judge({ format }, JSON.stringify(wrong), { format: true }).score, 0, format)
      assert.strictEqual(judge({ format }, JSON.stringify(wrong)).score, 1, format)
      for (const unit of ["a", "a.", "1", "::", "a@", "%20", "/", "-", "P1", "{a", "["]) {
        judge({ format }, JSON.stringify(`${unit.repeat(30_000 / unit.length)}!`), { format: true })
      }
    }
  })

  it("reads what the names of objects are, never what they inherit", () => {
    for (const name of ["__proto__", "constructor", "valueOf", "toString", "hasOwnProperty"]) {
      const has = (value: unknown) =>
        JSON.parse(`{${JSON.stringify(name)}:${JSON.stringify(value)}}`) as Record<string, unknown>
      assert.strictEqual(score({ properties: has({ type: "string" }) }, has("a")), 1, name)
      assert.strictEqual(score({ properties: has({ type: "string" }) }, has(1)), 0, name)
      assert.strictEqual(score({ properties: has({ type: "string" }) }, {}), 1, name)
      assert.strictEqual(score({ properties: has({}), additionalProperties: false }, has(1)), 1, name)
      assert.strictEqual(score({ additionalProperties: false }, has(1)), 0, name)
      assert.strictEqual(score({ required: [name] }, {}), 0, name)
      assert.strictEqual(score({ const: has(1) }, has(1)), 1, name)
      assert.strictEqual(score({ const: has({}) }, has({})), 1, name)
      assert.strictEqual(score({ enum: [has(1)] }, has(2)), 0, name)
      assert.strictEqual(score({ dependentRequired: has(["a"]) }, has(1)), 0, name)
      assert.strictEqual(score({ dependentSchemas: has({ required: ["a"] }) }, has(1)), 0, name)
      assert.strictEqual(score({ unevaluatedProperties: false }, has(1)), 0, name)
      assert.strictEqual(score({ uniqueItems: true }, [has(1), has(1)]), 0, name)
    }
  })

  it("says of numbers what their digits say", () => {
    for (const [divisor, value, expected] of [
      [0.1, 0.3, 1],
      [0.01, 1.15, 1],
      [0.1, 1.00000000001, 0],
      [1e-300, 1e300, 1],
      [3, 1e300, 0],
      [7, -21, 1],
      [0.123456789, 1e308, 0]
    ] as const) {
      assert.strictEqual(score({ multipleOf: divisor }, value), expected, `${value} by ${divisor}`)
    }
  })

  // each of these takes longer than anybody waits, or all memory, without its bound
  it("bounds what schemas and documents cost together", () => {
    const branches = Object.fromEntries(
      Array.from({ length: 60 }, (_, level) => [
        `d${level}`,
        { anyOf: [{ $ref: `#/$defs/d${level + 1}` }, { $ref: `#/$defs/d${level + 1}` }] }
      ])
    )
    const $defs = { ...branches, d60: { type: "object", minProperties: 9 } }
    assert.throws(() => judge({ $ref: "#/$defs/d0", $defs }, "1"), /branch without end/)
    assert.throws(() => judge({ $ref: "#" }, "1"), /branch without end/)
    assert.throws(() => judge({ allOf: [{ $ref: "#" }] }, "1"), /branch without end/)
    const twice = { items: { $ref: "#" }, minItems: 1 }
    const deep = `${"[".repeat(90)}${"]".repeat(90)}`
    assert.include(judge({ anyOf: [twice, twice] }, deep).reason!, "more steps")
    assert.include(judge({ anyOf: [twice, twice] }, deep, { partialCredit: 1 }).reason!, "more steps")
    const wide = JSON.stringify(Array.from({ length: 20_000 }, () => -1))
    const constants = Array.from({ length: 1000 }, (_, index) => ({ const: index }))
    assert.include(judge({ contains: { anyOf: constants } }, wide).reason!, "more steps")
    assert.strictEqual(judge({ items: { type: "string" } }, wide, { partialCredit: 1 }).score < 1, true)
    const values = Array.from({ length: 500 }, (_, index) => ({ a: "x".repeat(50), b: index }))
    assert.strictEqual(judge({ items: { enum: values } }, JSON.stringify(values), { maxCharacters: 100_000 }).score, 1)
    const loop: Record<string, unknown> = {}
    loop["not"] = loop
    assert.throws(() => judge(loop, "1"), /refers to itself/)
    let nested: Record<string, unknown> = {}
    for (let depth = 0; depth < 50_000; depth++) nested = { not: nested }
    assert.throws(() => judge(nested, "1"), OptionError)
    const copies = Object.fromEntries(Array.from({ length: 10_001 }, (_, index) => [`p${index}`, { minimum: index }]))
    assert.throws(() => judge({ properties: copies }, "1"), /more than 10000 schemas/)
    assert.throws(() => judge({ const: "x".repeat(1_000_001) }, "1"), /1000000 characters/)
    // scopes that differ make copies
    const anchors = Array.from({ length: 20 }, (_, index) => ({
      $id: `r${index}`,
      $dynamicAnchor: `a${index}`,
      anyOf: Array.from({ length: 20 }, (_, other) => ({ $ref: `r${other}` }))
    }))
    assert.throws(
      () => judge({ $defs: Object.fromEntries(anchors.map((schema) => [schema.$id, schema])), $ref: "r0" }, "1"),
      OptionError
    )
  })

  it("writes no code out of a schema", () => {
    const evil = `"];globalThis.hacked = 1;//\u2028\n'\`$\{1}`
    const schema = {
      title: evil,
      properties: { [evil]: { const: evil } },
      required: [evil],
      patternProperties: { '^x"\\];//': { enum: [evil] } },
      $defs: { [evil]: { type: "string", pattern: "[\"'`/]" } },
      propertyNames: { $ref: `#/$defs/${encodeURIComponent(evil.replaceAll("~", "~0").replaceAll("/", "~1"))}` },
      dependentRequired: { [evil]: [evil] }
    }
    assert.strictEqual(score(schema, { [evil]: evil }), 1)
    assert.strictEqual(score(schema, { [evil]: "x" }), 0)
    assert.notProperty(globalThis, "hacked")
  })

  it("reads JSON5 when told to be lenient", () => {
    const schema = { type: "object", required: ["a"] }
    assert.strictEqual(judge(schema, "Here: {'a': True,}").score, 0)
    assert.deepStrictEqual(judge(schema, "Here: {'a': True,}", { lenient: true }), {
      score: 1,
      reason: "valid, as JSON5"
    })
    assert.strictEqual(judge(schema, "no JSON", { lenient: true }).score, 0)
    assert.throws(() => judge(schema, "", { lenient: true, strict: true }), OptionError)
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

describe("partial credit", () => {
  const Person = {
    type: "object",
    required: ["name", "age", "address"],
    additionalProperties: false,
    properties: {
      name: { type: "string", minLength: 2 },
      age: { type: "integer", minimum: 0 },
      address: { $ref: "#/$defs/address" },
      tags: { type: "array", items: { type: "string" } }
    },
    $defs: { address: { type: "object", required: ["city"], properties: { city: { type: "string" } } } }
  }
  const right = { name: "Ada", age: 36, address: { city: "London" } }
  const credit = (value: unknown, schema: SchemaLike = Person) =>
    judge(schema, JSON.stringify(value), { partialCredit: 1 }).score

  it("grows with what is right, and is 1 for what is valid alone", () => {
    assert.strictEqual(credit(right), 1)
    const steps = [
      {},
      { name: 1 },
      { name: "A" },
      { name: "Ada" },
      { name: "Ada", age: -1 },
      { name: "Ada", age: 36 },
      { name: "Ada", age: 36, address: {} },
      { name: "Ada", age: 36, address: { city: 1 } },
      right
    ].map((value) => credit(value))
    for (let index = 1; index < steps.length; index++) assert.isAtLeast(steps[index]!, steps[index - 1]!, `${index}`)
    assert.strictEqual(steps[0], 0)
    assert.isAbove(steps[3]!, steps[1]!)
    assert.isBelow(steps.at(-2)!, 1)
    assert.strictEqual(judge(Person, JSON.stringify({ ...right, age: -1 })).score, 0)
    const half = judge(Person, JSON.stringify({ ...right, age: -1 }), { partialCredit: 0.5 }).score
    assert.strictEqual(half, 0.5 * credit({ ...right, age: -1 }))
  })

  it("counts units as the formula says", () => {
    const schema = {
      type: "object",
      required: ["a", "b"],
      properties: { a: { type: "string" }, b: { type: "string" } }
    }
    // root: type and the rest; a and b: their type and the rest. `{}` earns the root's two of six
    assert.strictEqual(credit({ a: "x" }, schema), (4 / 6 - 2 / 6) / (1 - 2 / 6))
    assert.strictEqual(credit({ a: "x", b: 1 }, schema), credit({ a: "x" }, schema))
  })

  it("gives nothing for what anybody can write, or for another type", () => {
    for (const value of [null, true, 0, 1, "", "x", [], {}, [right], [1, 2, 3]]) assert.strictEqual(credit(value), 0)
    assert.strictEqual(credit({}, { required: ["a"] }), 0)
    assert.strictEqual(credit("x", { enum: ["a"] }), 0)
    assert.strictEqual(credit([], { type: "array", minItems: 1, items: { type: "string" } }), 0)
    assert.strictEqual(judge(Person, "no document", { partialCredit: 1 }).score, 0)
  })

  it("is not raised by padding", () => {
    const wrong = { ...right, age: -1 }
    const base = credit(wrong)
    const padding = Object.fromEntries(Array.from({ length: 1000 }, (_, index) => [`x${index}`, index]))
    assert.isAtMost(credit({ ...wrong, ...padding }), base)
    assert.isAtMost(credit({ ...wrong, tags: Array.from({ length: 1000 }, () => "a") }), base)
    assert.isBelow(credit({ ...wrong, tags: [1] }), base)
    // nor thinned out: many good items do not make up for a bad one
    const list = { type: "array", items: { type: "string" } }
    assert.strictEqual(credit([...Array.from({ length: 1000 }, () => "a"), 1], list), 0)
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (more) => {
        if (Object.keys(more).some((key) => key in Person.properties)) return
        assert.isAtMost(credit({ ...wrong, ...more }), base)
      })
    )
  })

  it("is a number from 0 to below 1 for any invalid document", () => {
    const { $defs, ...rest } = Person
    const Inner = { ...rest, properties: { ...rest.properties, address: $defs.address } }
    const schemas: ReadonlyArray<Record<string, unknown>> = [
      Person,
      { anyOf: [{ type: "string" }, Inner] },
      { allOf: [Inner, { required: ["x"] }] },
      { type: "array", prefixItems: [Inner, { const: 1 }], minItems: 2 },
      { not: {} },
      { enum: [] },
      {
        $ref: "#/$defs/n",
        $defs: { n: { type: "object", required: ["n"], properties: { n: { $ref: "#/$defs/n" } } } }
      },
      { if: { type: "object" }, then: { required: ["a"] }, else: { type: "string" } }
    ]
    fc.assert(
      fc.property(fc.constantFrom(...schemas), fc.jsonValue(), (schema, value) => {
        const found = credit(value, schema)
        if (judge(schema, JSON.stringify(value)).score === 1) assert.strictEqual(found, 1)
        else assert.isTrue(found >= 0 && found < 1)
      })
    )
    assert.throws(() => jsonSchema({}, { partialCredit: 1.5 }), OptionError)
    assert.throws(() => jsonSchema({}, { partialCredit: Number.NaN }), OptionError)
  })
})
