// The project's own lint rules (loaded by .oxlintrc.json).

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

export default { meta: { name: "quintain" }, rules: { "no-any-value": noAnyValue } }
