/**
 * How much of a schema a document keeps, by keywords. The *skeleton* of a schema is what every document must have:
 * its own assertions, those of the schemas it refers to or lists in `allOf`, and of every required property and item.
 * Each keyword of the skeleton is a unit, and each of its schemas has one unit more for everything else within it. A
 * unit is earned when it is there and holds; what is missing or of the wrong type earns nothing of its part.
 *
 *     share  = earned / units
 *     credit = max(0, (share(document) - share(trivial)) / (1 - share(trivial)))
 *
 * where trivial is the best of null, true, 0, "", [] and {}. The number of units is the schema's alone, so that
 * nothing which is added to a document thins out its faults; what is optional can only lose; and what anybody can
 * write earns nothing.
 */
import { costKeyword, type Json } from "./rewrite.ts"
import { trivial, type Compiled, type ErrorObject } from "./compile.ts"

/** Deeper parts of a skeleton, such as of a schema that requires itself, count as one unit. */
const maxDepth = 12
/** Units of a skeleton that are told apart. */
const maxUnits = 2_000

/** Keywords that are no unit of their own: they are units by what they lead to, or hold annotations. */
const structure = new Set([
  costKeyword,
  "$ref",
  "allOf",
  "properties",
  "required",
  "prefixItems",
  "then",
  "else",
  "minContains",
  "maxContains"
])

/**
 * Between 0 and 1; below 1 for an invalid document, and 0 for one that takes too many steps. `compiled` collects all
 * errors.
 */
export const creditOf = (compiled: Compiled): ((value: unknown) => number) => {
  const share = (value: unknown): number => {
    const errors = compiled.validate(value)
    return errors === undefined ? 0 : new Walk(compiled, errors).run(value)
  }
  const least = Math.max(...trivial.map(share))
  return (value) => (least >= 1 ? 0 : Math.max(0, (share(value) - least) / (1 - least)))
}

class Walk {
  readonly #definitions: Readonly<Record<string, Json | boolean>>
  readonly #root: string
  readonly #errors: ReadonlyArray<ErrorObject>
  /** Errors of a schema's own keywords, by keyword and place. */
  readonly #own = new Map<unknown, Map<string, Array<ErrorObject>>>()
  readonly #claimed = new Set<ErrorObject>()
  /** Places of the skeleton that are there: their units for everything else. */
  readonly #places = new Set<string>()
  #units = 0
  #passed = 0

  constructor({ linked }: Compiled, errors: ReadonlyArray<ErrorObject>) {
    this.#definitions = linked.schema.$defs
    this.#root = linked.schema.$ref
    this.#errors = errors
    for (const error of errors) {
      const key = `${error.keyword}${error.instancePath}`
      let places = this.#own.get(error.parentSchema)
      if (places === undefined) this.#own.set(error.parentSchema, (places = new Map()))
      const found = places.get(key)
      if (found === undefined) places.set(key, [error])
      else found.push(error)
    }
  }

  /** The share of the units that is earned. */
  run(value: unknown): number {
    this.#schema(this.#definition(this.#root), { value }, "", 0)
    const broken = new Set<string>()
    for (const error of this.#errors) {
      if (this.#claimed.has(error)) continue
      let place = error.instancePath
      while (!this.#places.has(place) && place !== "") place = place.slice(0, place.lastIndexOf("/"))
      broken.add(place)
    }
    return Math.max(0, this.#passed - broken.size) / this.#units
  }

  #definition(reference: unknown): unknown {
    return this.#definitions[String(reference).slice("#/$defs/".length)]
  }

  #unit(passed: boolean): void {
    this.#units++
    if (passed) this.#passed++
  }

  /** `at` is absent where nothing is to be earned, because nothing is there. */
  #schema(schema: unknown, at: { readonly value: unknown } | undefined, place: string, depth: number): void {
    if (typeof schema !== "object" || schema === null || depth > maxDepth || this.#units > maxUnits) {
      return this.#unit(at !== undefined)
    }
    const node = schema as Json
    const failed = (keyword: string): ReadonlyArray<ErrorObject> => this.#own.get(node)?.get(`${keyword}${place}`) ?? []
    if (failed("type").length > 0) at = undefined
    if (at !== undefined) this.#places.add(place)
    this.#unit(at !== undefined)
    for (const keyword of Object.keys(node)) {
      const errors = failed(keyword)
      for (const error of errors) this.#claimed.add(error)
      if (!structure.has(keyword)) this.#unit(at !== undefined && errors.length === 0)
    }
    if (Object.hasOwn(node, "$ref")) this.#schema(this.#definition(node["$ref"]), at, place, depth + 1)
    for (const item of (node["allOf"] ?? []) as ReadonlyArray<unknown>) this.#schema(item, at, place, depth + 1)
    const properties = (node["properties"] ?? {}) as Json
    for (const name of (node["required"] ?? []) as ReadonlyArray<string>) {
      const own = Object.hasOwn(properties, name) ? properties[name] : true
      const escaped = name.replaceAll("~", "~0").replaceAll("/", "~1")
      this.#schema(own, part(at?.value, name), `${place}/${escaped}`, depth + 1)
    }
    const items = (node["prefixItems"] ?? []) as ReadonlyArray<unknown>
    const needed = Math.min(items.length, Number(node["minItems"] ?? 0))
    for (let index = 0; index < needed; index++) {
      this.#schema(items[index], part(at?.value, String(index)), `${place}/${index}`, depth + 1)
    }
  }
}

const part = (value: unknown, key: string): { readonly value: unknown } | undefined =>
  typeof value === "object" && value !== null && Object.hasOwn(value, key) ? { value: (value as Json)[key] } : undefined
