/** Lets a child process or worker thread find its module and run as its parent does: from source or from dist. */

/** A sibling module, as `.ts` from source and `.js` from dist. */
export const sibling = (name: string, base: string): URL =>
  new URL(`./${name}${base.endsWith(".ts") ? ".ts" : ".js"}`, base)

/** Flags that a child needs to resolve modules as its parent does. */
export const conditions = (base: string): Array<string> => {
  const own = process.execArgv.filter(
    (flag, index, all) => /^(--conditions|-C)(=|$)/.test(flag) || /^(--conditions|-C)$/.test(all[index - 1] ?? "")
  )
  return base.endsWith(".ts") && own.length === 0 ? ["--conditions=quintain-source"] : own
}
