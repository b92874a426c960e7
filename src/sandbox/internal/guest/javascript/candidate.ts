/** Loads a candidate's source and finds what it defines. */
import { evaluate, global } from "./intrinsics.ts"
import { exported } from "./globals.ts"

/**
 * Runs a script that ends with an array of what it calls by the wanted names. `null` if the candidate was loaded as a
 * module, which left that array.
 */
export const hold = (source: string | null): ReadonlyArray<unknown> => {
  if (source !== null) return evaluate(source) as ReadonlyArray<unknown>
  const held = global.__quintainHeld
  delete global.__quintainHeld
  return held as ReadonlyArray<unknown>
}

type Members = Readonly<Record<string, unknown>>

/** Values that the source defines or exports under these names, in either module system. */
export const locate = (held: ReadonlyArray<unknown>, names: ReadonlyArray<string>): Members => {
  const namespace = global.__quintainNamespace as Members | undefined
  delete global.__quintainNamespace
  const found = { __proto__: null } as unknown as Record<string, unknown>
  const count = names.length
  for (let index = 0; index < count; index++) {
    const name = names[index]!
    let value = held[index]
    const given = global.module as Members | null | undefined
    const common = typeof given === "object" && given !== null ? given.exports : undefined
    if (
      value === undefined &&
      common !== exported &&
      typeof common === "function" &&
      (count === 1 || name === "default")
    ) {
      value = common
    }
    if (value === undefined && (typeof common === "object" || typeof common === "function") && common !== null) {
      value = (common as Members)[name]
    }
    if (value === undefined && name === "default" && common !== exported) value = common
    if (value === undefined && namespace !== undefined) {
      value = namespace[name]
      if (value === undefined && count === 1) value = namespace.default
    }
    found[name] = value
  }
  return found
}
