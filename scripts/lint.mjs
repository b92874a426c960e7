// The project's own lint rules (loaded by .oxlintrc.json).
import { dirname, join, relative, sep } from "node:path"
import { fileURLToPath } from "node:url"

/**
 * `any` turns checking off for a value. As a type argument or a type parameter's default (`Task<any>`, `<Data = any>`)
 * it only says that a container's content does not matter, which variance leaves no other word for; there it may stand.
 */
const noAnyValue = {
  create: (context) => ({
    TSAnyKeyword: (node) => {
      const { type } = node.parent
      if (type === "TSTypeParameterInstantiation" || type === "TSTypeParameter") return
      context.report({ node, message: "`any` for a value turns checking off: use `unknown`, or a type." })
    }
  })
}

const root = dirname(dirname(fileURLToPath(import.meta.url)))

/** The folders of src, lowest first: plumbing, then the stages of the data path. A file imports its own folder and lower ones. */
const order = [
  "internal",
  "worker",
  "addon",
  "text",
  "data",
  "model",
  "engine",
  "rollout",
  "score",
  "learn",
  "sandbox",
  "engines",
  "run"
]
/** Packages that may import src, lowest first. */
const packages = ["rewards", "envs", "cli"]

/** The rank of a file in the order: a folder of src, a file directly in src above them all, or a package above src. */
const rankOf = (file) => {
  const [top, folder, ...rest] = relative(root, file).split(sep)
  if (top === "src") {
    if (rest.length === 0) return folder === "OptionError.ts" ? -1 : order.length
    return order.indexOf(folder)
  }
  const above = packages.indexOf(top)
  return above === -1 ? Infinity : order.length + 1 + above
}

/** The folder whose `internal/` holds a file; undefined for a public file. */
const ownerOf = (file) => {
  const parts = relative(root, file).split(sep)
  const at = parts.lastIndexOf("internal")
  return at <= 0 ? undefined : parts.slice(0, at).join("/")
}

/** Dependencies point one way, and a folder's `internal/` is for that folder; `src/internal` is for all of src. */
const folderOrder = {
  create: (context) => {
    const check = ({ source }) => {
      if (typeof source?.value !== "string" || !source.value.startsWith(".")) return
      const target = join(dirname(context.filename), source.value)
      const [from, to] = [rankOf(context.filename), rankOf(target)]
      if (from === Infinity) return
      const name = relative(root, target)
      if (to > from) {
        context.report({ node: source, message: `${name} lies above this file: see the order in scripts/lint.mjs.` })
      }
      const owner = ownerOf(target)
      if (owner !== undefined && !relative(root, context.filename).startsWith(`${owner}/`)) {
        context.report({ node: source, message: `${name} is for ${owner} only: import a public file.` })
      }
    }
    return {
      ImportDeclaration: check,
      ExportNamedDeclaration: check,
      ExportAllDeclaration: check,
      ImportExpression: check
    }
  }
}

/** Comments name their subject first: "Of", "What" and "Who(ever)" make a reader parse a sentence twice. */
const plainOpening = {
  create: (context) => ({
    Program: () => {
      let previous
      for (const comment of context.sourceCode.getAllComments()) {
        // A run of line comments is one text: only its first line opens it.
        const goesOn =
          comment.type === "Line" &&
          previous?.type === "Line" &&
          previous.loc.end.line + 1 === comment.loc.start.line &&
          previous.loc.start.column === comment.loc.start.column
        previous = comment
        const word = goesOn ? undefined : /^[\s*]*(Of|What|Who|Whoever)\b/.exec(comment.value)?.[1]
        if (word === undefined) continue
        context.report({ node: comment, message: `A comment opens with "${word}": name its subject first.` })
      }
    }
  })
}

const guest = "src/sandbox/internal/guest/"

/** Code of a sandbox's realm is read as text (prelude.ts). Imported here, it would change this process's globals. */
const guestIsText = {
  create: (context) => {
    const check = ({ source, importKind }) => {
      if (typeof source?.value !== "string" || !source.value.startsWith(".") || importKind === "type") return
      const target = relative(root, join(dirname(context.filename), source.value))
      if (!target.startsWith(guest) || relative(root, context.filename).startsWith(guest)) return
      context.report({ node: source, message: `${target} runs in a sandbox alone: read its text.` })
    }
    return {
      ImportDeclaration: check,
      ExportNamedDeclaration: check,
      ExportAllDeclaration: check,
      ImportExpression: check
    }
  }
}

const functions = new Set(["ArrowFunctionExpression", "FunctionExpression", "FunctionDeclaration"])
const isInFunction = (node) => {
  for (let at = node.parent; at; at = at.parent) if (functions.has(at.type)) return true
  return false
}

/**
 * Guest code that shares its realm with a candidate calls only what it took before the candidate was loaded. A method
 * call, an iteration or a spread would look up something that the candidate can replace. What runs once, before the
 * candidate is there, may do as it likes.
 */
const guestIntrinsics = {
  create: (context) => {
    const refuse = (what) => (node) => {
      if (isInFunction(node)) context.report({ node, message: `${what} calls what a candidate can replace.` })
    }
    return {
      CallExpression: (node) => {
        if (node.callee.type === "MemberExpression") refuse("A method call")(node)
      },
      TaggedTemplateExpression: refuse("A tagged template"),
      ForOfStatement: refuse("Iterating"),
      SpreadElement: refuse("A spread"),
      ArrayPattern: refuse("Taking an array apart"),
      YieldExpression: refuse("A generator"),
      BinaryExpression: (node) => {
        if (node.operator === "instanceof") refuse("instanceof")(node)
      }
    }
  }
}

export default {
  meta: { name: "quintain" },
  rules: {
    "no-any-value": noAnyValue,
    "folder-order": folderOrder,
    "plain-opening": plainOpening,
    "guest-is-text": guestIsText,
    "guest-intrinsics": guestIntrinsics
  }
}
