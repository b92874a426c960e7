/** Stand-in modules that model-written code and a user's tests can import, as source text. */

/** Modules that a program can import, with the names that each exports besides its default. */
const programModules: Readonly<Record<string, ReadonlyArray<string>>> = {
  fs: ["readFileSync", "writeSync", "writeFileSync", "existsSync"],
  readline: ["createInterface"],
  process: ["stdin", "stdout", "stderr", "argv", "env", "exit", "nextTick", "hrtime"],
  os: ["EOL"]
}

/** Modules that a test file can import, with the names that each exports besides its default. */
const runner = [
  "describe",
  "suite",
  "it",
  "test",
  "beforeEach",
  "afterEach",
  "beforeAll",
  "afterAll",
  "before",
  "after",
  "expect",
  "assert"
]
const assertions = [
  "ok",
  "equal",
  "notEqual",
  "strictEqual",
  "notStrictEqual",
  "deepEqual",
  "deepStrictEqual",
  "notDeepEqual",
  "notDeepStrictEqual",
  "throws",
  "doesNotThrow",
  "rejects",
  "doesNotReject",
  "match",
  "doesNotMatch",
  "fail",
  "assert",
  "strict"
]
const testModules: Readonly<Record<string, ReadonlyArray<string>>> = {
  vitest: runner,
  "@jest/globals": runner,
  "bun:test": runner,
  test: runner,
  assert: assertions,
  "assert/strict": assertions,
  chai: ["assert", "expect"]
}

const withoutPrefix = (specifier: string): string => specifier.replace(/^node:/, "")

const refuse = (specifier: string): never => {
  throw new Error(`${specifier.slice(0, 100)} cannot be imported here`)
}

const standIn = (value: string, names: ReadonlyArray<string>): string =>
  [
    `const all = ${value}`,
    ...names.map((name) => (name === "default" ? "export default all.default" : `export const ${name} = all.${name}`)),
    ...(names.includes("default") ? [] : ["export default all"])
  ].join("\n")

/** A program may import what it reads and writes with. */
const ofProgram = (specifier: string): string => {
  const name = withoutPrefix(specifier).replace(/^readline\/promises$/, "readline")
  const names = programModules[name]
  return names === undefined ? refuse(specifier) : standIn(`globalThis.require(${JSON.stringify(name)})`, names)
}

/** Tests may import a runner, assertions, and the candidate, which is whatever has a relative name. */
const ofTests =
  (names: ReadonlyArray<string>) =>
  (specifier: string): string => {
    if (/^[./]/.test(specifier)) return standIn(`globalThis.__quintainModule("./")`, names)
    const name = withoutPrefix(specifier)
    const known = Object.hasOwn(testModules, name) ? testModules[name] : undefined
    return known === undefined
      ? refuse(specifier)
      : standIn(`globalThis.__quintainModule(${JSON.stringify(name)})`, known)
  }

const candidate = "quintain:candidate"
/** Evaluates the candidate's module and leaves what it exports where the prelude finds it. */
export const aroundCandidate = `import * as all from "${candidate}"; globalThis.__quintainNamespace = all`
const ofCandidate =
  (source: string) =>
  (specifier: string): string =>
    specifier === candidate ? source : refuse(specifier)

/** Modules that another module can import. */
export type Imports =
  | { readonly of: "candidate"; readonly source: string }
  | { readonly of: "program" }
  | { readonly of: "tests"; readonly names: ReadonlyArray<string> }

/** The source of an imported module; throws where there is none. */
export const importsOf = (imports: Imports): ((specifier: string) => string) =>
  imports.of === "candidate" ? ofCandidate(imports.source) : imports.of === "tests" ? ofTests(imports.names) : ofProgram

/** The last line of a candidate: what it calls by these names. `default` is no name inside. */
export const lookups = (names: ReadonlyArray<string>): string =>
  `[${names.map((name) => (name === "default" ? "undefined" : `typeof ${name} === "undefined" ? undefined : ${name}`)).join(", ")}]`

const identifier = /^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u
export const isName = (text: string): boolean => text.length <= 200 && identifier.test(text) && !reserved.has(text)
const reserved = new Set(
  (
    "await break case catch class const continue debugger default delete do else enum export extends false finally for function if import in " +
    "instanceof let new null return static super switch this throw true try typeof var void while with yield"
  ).split(" ")
)

/**
 * The names that a test file takes from the candidate, which is what it imports or requires from a relative path.
 * The text is the user's; what looks like an import in a comment asks for a name too many, which does no harm.
 */
export const importedNames = (source: string): ReadonlyArray<string> => {
  const names = new Set<string>()
  const add = (name: string): void => {
    if (name === "default" || isName(name)) names.add(name)
  }
  const members = (alias: string): void => {
    for (const [, name] of source.matchAll(new RegExp(`(?<![\\w$.])${alias.replaceAll("$", "\\$")}\\.([\\w$]+)`, "g")))
      add(name!)
  }
  const braces = (text: string): void => {
    for (const part of text.split(",")) {
      const name = part.trim().split(/[\s:]/, 1)[0]!
      if (name !== "" && !/^type\s+[\w$]/.test(part.trim())) add(name)
    }
  }
  for (const [, clause] of source.matchAll(/\bimport\b([^;'"()]{1,5000}?)\bfrom[ \t]*['"][./][^'"\n]{0,500}['"]/g)) {
    if (/^\s*type\s+[\w${*]/.test(clause!)) continue
    const inner = /\{([^}]*)\}/.exec(clause!)
    if (inner !== null) braces(inner[1]!)
    const rest = clause!.replace(/\{[^}]*\}/, "")
    const all = /\*\s*as\s+([\w$]+)/.exec(rest)
    if (all !== null) members(all[1]!)
    const first = rest
      .replace(/\*\s*as\s+[\w$]+/, "")
      .replaceAll(",", "")
      .trim()
    if (first !== "") add("default")
  }
  const required = /\b(?:const|let|var)\s+(\{[^}]{0,5000}\}|[\w$]{1,200})\s*=\s*require\(\s*['"][./]/g
  for (const [, bound] of source.matchAll(required)) {
    if (bound!.startsWith("{")) braces(bound!.slice(1, -1))
    else {
      members(bound!)
      add("default")
    }
  }
  return [...names].slice(0, 200)
}
