/**
 * The code that runs in a sandbox's realm before the candidate's, as one text; the same for every JavaScript runtime. Its
 * files lie in guest/javascript. They are modules for the compiler, the linter and the formatter, and are never imported:
 * their texts follow one another in one function, without types, imports and exports.
 *
 * The prelude shares its realm with the candidate. It knows nothing worth stealing: the source, one case's input, and how
 * to write down a result by its exact type. Its completion value is one function `(operation, ...texts)`, which answers
 * with text: see guest/javascript/operations.ts.
 */
import { readFileSync } from "node:fs"
import { stripTypeScriptTypes } from "node:module"

/** `call`: functions are called. `stay`: the same, of a candidate that stays. `run`: whole programs. `test`: the user's tests, which never share a realm with a candidate. */
export type RealmKind = "call" | "stay" | "run" | "test"

/** A file comes after those that it imports. */
const base = ["intrinsics", "globals", "writeData", "readData", "failure", "operations"]
const files: Readonly<Record<RealmKind, ReadonlyArray<string>>> = {
  call: [...base, "candidate", "call"],
  stay: [...base, "candidate", "stay"],
  run: [...base, "programOutput", "programInput", "program"],
  test: [...base, "testCandidate", "testEquality", "testExpect", "testAssert", "testSuites", "testRun"]
}

const ending = import.meta.url.endsWith(".ts") ? ".ts" : ".js"

const importLines = /^import\s*\{[^}]*\}\s*from\s*"\.\/\w+\.[jt]s";?$/gm
const exportWords = /^export (?=(?:const|let|class) )/gm

/** A guest file as statements of a function. */
const statements = (name: string): string => {
  const source = readFileSync(new URL(`../guest/javascript/${name}${ending}`, import.meta.url), "utf8")
  const script = ending === ".ts" ? stripTypeScriptTypes(source) : source
  const text = script.replaceAll(importLines, "").replaceAll(exportWords, "")
  const left = /^(?:import|export)\b.*/m.exec(text)
  if (left !== null) throw new SyntaxError(`guest/javascript/${name}: ${left[0]} cannot become part of a function`)
  return text
}

/** The prelude of a realm of this kind. */
export const prelude = (kind: RealmKind): string => {
  let text = preludes.get(kind)
  if (text === undefined) {
    const extras = `"use strict";(() => {${statements("extras")}\nreturn makeExtras\n})()`
    text = `"use strict";(() => {const extrasSource = ${JSON.stringify(extras)}
${files[kind].map(statements).join("\n")}
return (operation, a, b, c) => operations[operation](a, b, c)
})()`
    preludes.set(kind, text)
  }
  return text
}

const preludes = new Map<RealmKind, string>()
