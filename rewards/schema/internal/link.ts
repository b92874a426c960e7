/**
 * Links a JSON Schema: what comes out is one flat document of draft 2020-12 in which every reference is a pointer
 * into its own `$defs`, with nothing but keywords that assert. Identifiers, anchors and drafts are gone,
 * `$dynamicRef` too: a schema that is reached under different dynamic scopes is copied for each (draft 2020-12, core,
 * 8.2.3.2). So schemas of different origin can share one compiler without seeing each other, nothing is ever fetched,
 * and the size of what is compiled is known before.
 */
import { createRequire } from "node:module"
import { asRecent, byPattern, conditions, cost, costKeyword, dependents, isObject, type Json } from "./rewrite.ts"

export type Draft = "2020-12" | "7"

export interface Linked {
  /** Pointer from the root into `$defs`. */
  readonly schema: { readonly $ref: string; readonly $defs: Readonly<Record<string, Json | boolean>> }
}

export interface LinkOptions {
  /** The draft of documents without `$schema`. */
  readonly draft: Draft
  /** Documents that references may name, by URI. */
  readonly schemas: Json
  readonly format: boolean
}

/** Schema objects that one document may be linked to. */
const maxSchemas = 10_000
/** The base of documents without an identifier. */
const nowhere = "https://schema.invalid/"

const assertions = new Set(
  (
    "type enum const multipleOf maximum exclusiveMaximum minimum exclusiveMinimum maxLength minLength pattern maxItems " +
    "minItems uniqueItems maxProperties minProperties required format maxContains minContains dependentRequired"
  ).split(" ")
)
const single = new Set(
  (
    "additionalProperties contains else if items not propertyNames then unevaluatedItems unevaluatedProperties " +
    "additionalItems"
  ).split(" ")
)
const lists = new Set(["allOf", "anyOf", "oneOf", "prefixItems", "items"])
const maps = new Set(["properties", "patternProperties", "dependentSchemas", "$defs", "definitions", "dependencies"])
/** Not of draft 7. */
const recent = new Set(
  "maxContains minContains dependentRequired unevaluatedItems unevaluatedProperties prefixItems dependentSchemas $defs".split(
    " "
  )
)

interface Resource {
  readonly uri: string
  readonly draft: Draft
  readonly root: unknown
  readonly anchors: Map<string, unknown>
  readonly dynamic: Map<string, unknown>
}

/** For each dynamic anchor the outermost resource in scope that has it. */
type Scope = ReadonlyMap<string, Resource>

const drafts: ReadonlyMap<string, Draft> = new Map([
  ["https://json-schema.org/draft/2020-12/schema", "2020-12"],
  ["http://json-schema.org/draft-07/schema", "7"]
])

/** Throws a `TypeError` for what is not a schema, or refers to what is not at hand. */
export const link = (document: unknown, options: LinkOptions): Linked => new Linker(options).link(document)

class Linker {
  readonly #options: LinkOptions
  readonly #resources = new Map<string, Resource>()
  readonly #owner = new Map<object, Resource>()
  readonly #numbers = new Map<object, Map<string, string>>()
  readonly #definitions: Record<string, Json | boolean> = {}
  #schemas = 0
  #count = 0
  /** Keywords of what is at hand. */
  readonly #used = new Set<string>()

  constructor(options: LinkOptions) {
    this.#options = options
  }

  link(document: unknown): Linked {
    const { root } = this.#load(document, nowhere)
    return { schema: { $ref: this.#reference(root, new Map()), $defs: this.#definitions } }
  }

  #load(document: unknown, uri: string): Resource {
    const draft = this.#draftOf(document, this.#options.draft)
    const id = isObject(document) && typeof document["$id"] === "string" ? document["$id"] : undefined
    const absolute = id === undefined ? uri : withoutFragment(resolve(id, uri))
    const resource = this.#register(document, absolute, draft)
    if (!this.#resources.has(uri)) this.#resources.set(uri, resource)
    this.#index(document, resource)
    return resource
  }

  #register(root: unknown, uri: string, draft: Draft): Resource {
    if (this.#resources.get(uri)?.root !== undefined && uri !== nowhere) {
      throw new TypeError(`the schema declares ${JSON.stringify(uri)} twice; identifiers are unique`)
    }
    const resource: Resource = { uri, draft, root, anchors: new Map(), dynamic: new Map() }
    this.#resources.set(uri, resource)
    return resource
  }

  #draftOf(node: unknown, inherited: Draft): Draft {
    const uri = isObject(node) ? node["$schema"] : undefined
    if (typeof uri !== "string") return inherited
    const known = drafts.get(uri.replace(/#$/, ""))
    if (known !== undefined) return known
    // a dialect of its own is of the draft that its meta-schema is of
    if (Object.hasOwn(this.#options.schemas, uri) && this.#options.schemas[uri] !== node) {
      return this.#draftOf(this.#options.schemas[uri], inherited)
    }
    throw new TypeError(
      `$schema ${JSON.stringify(uri).slice(0, 200)} is neither draft 2020-12 nor draft 7: convert the schema, or remove it`
    )
  }

  /** Finds the resources and anchors below. */
  #index(node: unknown, parent: Resource): void {
    if (!isObject(node) || this.#owner.has(node)) return
    let own = parent
    const draft = parent.root === node ? parent.draft : this.#draftOf(node, parent.draft)
    const id = node["$id"]
    if (typeof id === "string" && parent.root !== node && !(draft === "7" && Object.hasOwn(node, "$ref"))) {
      if (id.startsWith("#")) parent.anchors.set(id.slice(1), node)
      else own = this.#register(node, withoutFragment(resolve(id, parent.uri)), draft)
    } else if (typeof id === "string" && id.includes("#")) own.anchors.set(id.slice(id.indexOf("#") + 1), node)
    this.#owner.set(node, own)
    if (own.draft === "2020-12") {
      if (typeof node["$anchor"] === "string") own.anchors.set(node["$anchor"], node)
      if (typeof node["$dynamicAnchor"] === "string") own.dynamic.set(node["$dynamicAnchor"], node)
    }
    for (const [keyword, value] of Object.entries(node)) {
      this.#used.add(keyword)
      if (own.draft === "7" && recent.has(keyword)) continue
      if (single.has(keyword)) this.#index(value, own)
      if (lists.has(keyword) && Array.isArray(value)) for (const item of value) this.#index(item, own)
      if (maps.has(keyword) && isObject(value)) for (const item of Object.values(value)) this.#index(item, own)
    }
  }

  /** The reference to a schema under a dynamic scope; it is linked when it is met first. */
  #reference(node: unknown, outer: Scope): string {
    if (typeof node === "boolean") {
      const name = node ? "true" : "false"
      this.#definitions[name] = node
      return `#/$defs/${name}`
    }
    if (!isObject(node)) throw new TypeError(`a schema is an object or a boolean, got ${JSON.stringify(node)}`)
    const scope = enter(outer, this.#owner.get(node)!)
    const key = [...scope]
      .map(([name, { uri }]) => JSON.stringify([name, uri]))
      .toSorted()
      .join()
    let numbers = this.#numbers.get(node)
    if (numbers === undefined) this.#numbers.set(node, (numbers = new Map()))
    let number = numbers.get(key)
    if (number === undefined) {
      number = String(this.#count++)
      numbers.set(key, number)
      // its place is taken first: it may refer to itself
      this.#definitions[number] = true
      this.#definitions[number] = this.#node(node, scope)
    }
    return `#/$defs/${number}`
  }

  /** A schema in its place, or by reference when it starts another resource. */
  #sub(node: unknown, scope: Scope): Json | boolean {
    if (typeof node === "boolean") return node
    if (!isObject(node)) throw new TypeError(`a schema is an object or a boolean, got ${JSON.stringify(node)}`)
    const owner = this.#owner.get(node)
    return owner?.root === node
      ? { $ref: this.#reference(node, scope), [costKeyword]: [1, 0] }
      : this.#node(node, scope)
  }

  #node(node: Json, scope: Scope): Json {
    if (++this.#schemas > maxSchemas) throw new TypeError(`the schema links to more than ${maxSchemas} schemas`)
    const owner = this.#owner.get(node)!
    if (owner.draft === "7" && Object.hasOwn(node, "$ref")) {
      return { $ref: this.#target(String(node["$ref"]), owner, scope, false), [costKeyword]: [1, 0] }
    }
    const out = new Map<string, unknown>()
    const all: Array<unknown> = []
    const sub = (value: unknown) => this.#sub(value, scope)
    for (const [keyword, value] of Object.entries(node)) {
      if (owner.draft === "7" && recent.has(keyword)) continue
      if (assertions.has(keyword)) {
        if (keyword !== "format" || this.#options.format) out.set(keyword, value)
      } else if (keyword === "$ref" || keyword === "$dynamicRef") {
        const $ref = this.#target(String(value), owner, scope, keyword === "$dynamicRef")
        if (keyword === "$ref") out.set("$ref", $ref)
        else all.push({ $ref, [costKeyword]: [1, 0] })
      } else if (Array.isArray(value) && lists.has(keyword)) out.set(keyword, value.map(sub))
      else if (single.has(keyword)) out.set(keyword, sub(value))
      else if (isObject(value) && maps.has(keyword) && keyword !== "$defs" && keyword !== "definitions") {
        out.set(
          keyword,
          Object.fromEntries(
            Object.entries(value).map(([key, item]) => [
              key,
              keyword === "dependencies" && Array.isArray(item) ? item : sub(item)
            ])
          )
        )
      } else if (lists.has(keyword) || (maps.has(keyword) && !keyword.startsWith("$") && keyword !== "definitions")) {
        throw new TypeError(`${keyword} of the schema is ${JSON.stringify(value)?.slice(0, 80)}`)
      }
    }
    if (owner.draft === "7") asRecent(out)
    else out.delete("additionalItems")
    byPattern(out)
    dependents(out, all)
    if (this.#uses("unevaluatedItems") || this.#uses("unevaluatedProperties")) conditions(out, all)
    this.#contains(node, out, all, scope)
    if (all.length > 0) out.set("allOf", [...((out.get("allOf") as Array<unknown> | undefined) ?? []), ...all])
    out.set(costKeyword, cost(out))
    return Object.fromEntries(out)
  }

  /**
   * ajv takes `contains` to evaluate every item. An item that matches `contains` is evaluated. So `unevaluatedItems`
   * applies to those that match neither it nor the `contains` beside it or in its `allOf`. A `contains` in a branch
   * that need not hold is taken to evaluate nothing.
   */
  #contains(node: Json, out: Map<string, unknown>, all: Array<unknown>, scope: Scope): void {
    if (out.has("unevaluatedItems")) {
      const beside: Array<unknown> = []
      const collect = (schema: unknown): void => {
        if (!isObject(schema)) return
        if (Object.hasOwn(schema, "contains")) beside.push(schema["contains"])
        if (Array.isArray(schema["allOf"])) for (const item of schema["allOf"]) collect(item)
      }
      collect(node)
      if (beside.length > 0) {
        const anyOf = [...beside.map((item) => this.#sub(item, scope)), out.get("unevaluatedItems")]
        out.set("unevaluatedItems", { anyOf, [costKeyword]: [1 + anyOf.length, 0] })
      }
    }
    if (!out.has("contains") || !this.#uses("unevaluatedItems")) return
    const kept = new Map<string, unknown>()
    for (const keyword of ["contains", "minContains", "maxContains"]) {
      if (out.has(keyword)) kept.set(keyword, out.get(keyword))
      out.delete(keyword)
    }
    kept.set(costKeyword, cost(kept))
    all.push({ not: { not: Object.fromEntries(kept), [costKeyword]: [1, 0] }, [costKeyword]: [1, 0] })
  }

  #uses(keyword: string): boolean {
    return this.#used.has(keyword)
  }

  #target(reference: string, from: Resource, scope: Scope, dynamic: boolean): string {
    const url = resolve(reference, from.uri)
    const fragment = decode(url.hash.slice(1), reference)
    const resource = this.#resource(withoutFragment(url), reference)
    if (dynamic && resource.dynamic.has(fragment)) {
      const outermost = scope.get(fragment) ?? resource
      return this.#reference(outermost.dynamic.get(fragment), scope)
    }
    return this.#reference(this.#at(resource, fragment, reference), scope)
  }

  #resource(uri: string, reference: string): Resource {
    const known = this.#resources.get(uri)
    if (known !== undefined) return known
    const given = Object.entries(this.#options.schemas).find(
      ([name]) => withoutFragment(resolve(name, nowhere)) === uri
    )
    const document = given?.[1] ?? metaSchema(uri)
    if (document === undefined) {
      throw new TypeError(
        `the schema refers to ${JSON.stringify(reference).slice(0, 200)}, which is not in it; nothing is fetched: give it in \`schemas\``
      )
    }
    return this.#load(document, uri)
  }

  #at(resource: Resource, fragment: string, reference: string): unknown {
    const absent = () =>
      new TypeError(`the schema refers to ${JSON.stringify(reference).slice(0, 200)}, which is not there`)
    if (fragment === "") return resource.root
    if (!fragment.startsWith("/")) {
      const found = resource.anchors.get(fragment) ?? resource.dynamic.get(fragment)
      if (found === undefined) throw absent()
      return found
    }
    let node = resource.root
    let owner = resource
    for (const token of fragment.slice(1).split("/")) {
      const key = token.replaceAll("~1", "/").replaceAll("~0", "~")
      if (typeof node !== "object" || node === null || !Object.hasOwn(node, key)) throw absent()
      node = (node as Json)[key]
      owner = (isObject(node) ? this.#owner.get(node) : undefined) ?? owner
    }
    // under a keyword that is none
    this.#index(node, owner)
    return node
  }
}

const enter = (scope: Scope, resource: Resource): Scope => {
  const added = [...resource.dynamic.keys()].filter((name) => !scope.has(name))
  return added.length === 0 ? scope : new Map([...scope, ...added.map((name) => [name, resource] as const)])
}

const resolve = (reference: string, base: string): URL => {
  const url = URL.canParse(reference, base) ? new URL(reference, base) : undefined
  if (url === undefined) throw new TypeError(`${JSON.stringify(reference).slice(0, 200)} in the schema is no reference`)
  return url
}

const withoutFragment = (url: URL): string => url.href.slice(0, url.href.length - url.hash.length).replace(/#$/, "")

const decode = (fragment: string, reference: string): string => {
  try {
    return decodeURIComponent(fragment)
  } catch {
    throw new TypeError(`${JSON.stringify(reference).slice(0, 200)} in the schema is no reference`)
  }
}

const require = createRequire(import.meta.url)

/** The meta-schemas of the drafts, as schemas may refer to them. */
const metaSchema = (uri: string): unknown => {
  if (uri === "http://json-schema.org/draft-07/schema") return require("ajv/dist/refs/json-schema-draft-07.json")
  const name = /^https:\/\/json-schema\.org\/draft\/2020-12\/(schema|meta\/[a-z-]+)$/.exec(uri)?.[1]
  return name !== undefined && metaSchemas.has(name)
    ? require(`ajv/dist/refs/json-schema-2020-12/${name}.json`)
    : undefined
}
const metaSchemas = new Set([
  "schema",
  ...["core", "applicator", "unevaluated", "validation", "meta-data", "format-annotation", "content"].map(
    (name) => `meta/${name}`
  )
])
