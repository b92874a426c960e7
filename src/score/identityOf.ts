/** Identity of a reward: its composition, with roles and weights, and the identity of every verifier in it. */
import * as Identity from "../data/Identity.ts"
import { existsSync } from "node:fs"
import * as path from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"
import { asTerm, type Part, type Term } from "./internal/term.ts"
import type { WorkerVerifier } from "./VerifierPool.ts"

export const identityOf = (part: Part<any, any>): Identity.Identity => {
  if (typeof part === "function") return Identity.of(part)
  if (part._tag === "WorkerVerifier") return ofWorker(part)
  return ofTerm(part)
}

/** A bare part of weight 1 is the verifier itself. */
const ofTerm = ({ judge, role, weight }: Term<any, any>): Identity.Identity => {
  const own = judgeOf(judge)
  return role === "weight" && weight === 1
    ? own
    : Identity.make(role, { ...(role === "weight" ? { weight } : {}), of: own })
}

const judgeOf = (judge: Term["judge"]): Identity.Identity => {
  switch (judge._tag) {
    case "Single":
      return identityOf(judge.verifier)
    case "Group":
      return Identity.make("group", { of: Identity.of(judge.verifier) })
    case "All":
      return Identity.make("all", Object.fromEntries(judge.terms.map(([name, term]) => [name, ofTerm(asTerm(term))])))
  }
}

const ofWorker = (verifier: WorkerVerifier): Identity.Identity =>
  Identity.make("worker", {
    module: moduleName(verifier.module),
    export: verifier.export,
    ...(verifier.options === undefined ? {} : { options: verifier.options })
  })

/**
 * Names a module without the folder of its project, so that another checkout is the same run. A module below
 * `node_modules` is named from its package on, others relative to the nearest package.json.
 */
const moduleName = (module: string): string => {
  if (!module.startsWith("file:")) return module
  const file = fileURLToPath(module)
  const inPackage = file.split(`${path.sep}node_modules${path.sep}`).at(-1)
  if (inPackage !== undefined && inPackage !== file) return inPackage.split(path.sep).join("/")
  for (let folder = path.dirname(file); folder !== path.dirname(folder); folder = path.dirname(folder)) {
    if (existsSync(path.join(folder, "package.json"))) {
      return `./${path.relative(folder, file).split(path.sep).join("/")}`
    }
  }
  return pathToFileURL(file).href
}
