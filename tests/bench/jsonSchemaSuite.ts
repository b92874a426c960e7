/**
 * Measures the share of the official JSON-Schema-Test-Suite that the verifier's compiler passes, compared with plain ajv,
 * and the time that the known denials take.
 *
 *     git clone https://github.com/json-schema-org/JSON-Schema-Test-Suite
 *     node --conditions=quintain-source tests/bench/jsonSchemaSuite.ts JSON-Schema-Test-Suite [--misses]
 */
import { Ajv } from "ajv"
import { Ajv2020 } from "ajv/dist/2020.js"
import ajvFormats from "ajv-formats"
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { compile } from "../../rewards/schema/internal/compile.ts"
import type { Draft } from "../../rewards/schema/internal/link.ts"

interface Group {
  readonly description: string
  readonly schema: Record<string, unknown> | boolean
  readonly tests: ReadonlyArray<{ readonly description: string; readonly data: unknown; readonly valid: boolean }>
}

const [root, flag] = process.argv.slice(2)
if (root === undefined) throw new Error("jsonSchemaSuite takes the path of a checkout of JSON-Schema-Test-Suite")

const files = (folder: string): ReadonlyArray<string> =>
  readdirSync(join(root, folder), { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".json"))
const read = (path: string): unknown => JSON.parse(readFileSync(join(root, path), "utf8"))
const remotes = Object.fromEntries(
  files("remotes").map((name) => [`http://localhost:1234/${name}`, read(`remotes/${name}`)])
) as Record<string, Record<string, unknown>>

const ours = (schema: Group["schema"], draft: Draft, format: boolean) => {
  const { validate } = compile(schema, { draft, format, schemas: remotes, all: false })
  return (value: unknown) => validate(value)?.length === 0
}

const plain = (schema: Group["schema"], draft: Draft, format: boolean) => {
  const ajv = new (draft === "7" ? Ajv : Ajv2020)({ strict: false, validateFormats: format, logger: false })
  if (format) ajvFormats.default(ajv)
  for (const [uri, document] of Object.entries(remotes)) {
    if (!/\/(draft|v1)/.test(uri) || uri.includes(draft === "7" ? "/draft7/" : "/draft2020-12/")) {
      try {
        ajv.addSchema(document, uri)
      } catch {
        // a few are known under their identifier already
      }
    }
  }
  return ajv.compile(schema)
}

const measure = (draft: Draft, which: "required" | "optional" | "format", make: typeof ours): void => {
  const folder = `tests/draft${draft}`
  const misses: Array<string> = []
  let total = 0
  for (const name of files(folder)) {
    const kind = name.startsWith("optional/format") ? "format" : name.startsWith("optional") ? "optional" : "required"
    if (kind !== which) continue
    for (const group of read(`${folder}/${name}`) as ReadonlyArray<Group>) {
      let validate: ((value: unknown) => boolean) | undefined
      let fault = ""
      try {
        validate = make(group.schema, draft, which === "format" || name.endsWith("format-assertion.json"))
      } catch (thrown) {
        fault = ` (${String(thrown).slice(0, 120)})`
      }
      for (const test of group.tests) {
        total++
        let verdict: boolean | undefined
        try {
          verdict = validate?.(test.data)
        } catch (thrown) {
          fault = ` (${String(thrown).slice(0, 120)})`
        }
        if (verdict !== test.valid) misses.push(`${name}: ${group.description}: ${test.description}${fault}`)
      }
    }
  }
  const passed = total - misses.length
  const share = ((100 * passed) / total).toFixed(1)
  console.log(`draft ${draft} ${which}: ${make === ours ? "quintain" : "ajv"} ${passed}/${total} = ${share} %`)
  if (flag === "--misses" && make === ours && which !== "format") for (const miss of misses) console.log(`  ${miss}`)
}

for (const draft of ["2020-12", "7"] as const) {
  for (const which of ["required", "optional", "format"] as const) {
    measure(draft, which, ours)
    measure(draft, which, plain as typeof ours)
  }
}

const branching = Object.fromEntries(
  Array.from({ length: 40 }, (_, level) => [
    `d${level}`,
    level === 39
      ? { type: "array", minItems: 9 }
      : { anyOf: [{ $ref: `#/$defs/d${level + 1}` }, { $ref: `#/$defs/d${level + 1}` }] }
  ])
)
const repeat = (count: number, item: (index: number) => unknown) =>
  Array.from({ length: count }, (_, index) => item(index))
const denials: ReadonlyArray<readonly [string, Record<string, unknown>, unknown]> = [
  ["nested repetition, 50,000 characters", { pattern: "^(a+)+$" }, `${"a".repeat(50_000)}!`],
  ["overlapping alternatives, 50,000 characters", { pattern: "^([a-z]|[a-z0-9])*$" }, `${"a".repeat(50_000)}!`],
  [
    "patternProperties, 5,000 keys",
    { patternProperties: { "^(a|a)*$": false } },
    Object.fromEntries(repeat(5_000, (index) => [`${"a".repeat(9)}${index}`, 1]) as Array<[string, number]>)
  ],
  ["uniqueItems, 20,000 objects", { uniqueItems: true }, repeat(20_000, (index) => ({ i: index }))],
  [
    "enum of 2,000 objects on 200 items",
    { items: { enum: repeat(2_000, (index) => ({ a: [index, "x".repeat(100)] })) } },
    repeat(200, () => ({ a: [0, "y"] }))
  ],
  [
    "contains on 30,000 items",
    { contains: { anyOf: repeat(100, (index) => ({ const: index })) } },
    repeat(30_000, () => -1)
  ],
  ["anyOf of 40 levels of two $refs", { $ref: "#/$defs/d0", $defs: branching }, []],
  ["a $ref to itself", { $ref: "#" }, 1],
  [
    "recursion over 100 levels in both of two branches",
    {
      anyOf: [
        { items: { $ref: "#" }, minItems: 1 },
        { items: { $ref: "#" }, minItems: 1 }
      ]
    },
    repeat(99, () => 0).reduce((inner: unknown) => [inner], [])
  ],
  ["30,000 items that fail", { items: { type: "string", enum: ["a"] } }, repeat(30_000, () => 1)]
]
for (const [name, schema, value] of denials) {
  const start = performance.now()
  let outcome: string
  try {
    const { validate } = compile(schema, { draft: "2020-12", format: false, schemas: {}, all: false })
    const errors = validate(value)
    outcome = errors === undefined ? "ended" : errors.length === 0 ? "valid" : `invalid, ${errors.length} errors`
  } catch (fault) {
    outcome = `refused: ${String(fault).slice(0, 80)}`
  }
  console.log(`${name}: ${(performance.now() - start).toFixed(0)} ms, ${outcome}`)
}
