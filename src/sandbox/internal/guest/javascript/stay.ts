/** A candidate that stays: its functions are called one after the other, by the tests in another process. */
import { apply, getPrototypeOf, parse, PromisePrototype } from "./intrinsics.ts"
import { failure } from "./failure.ts"
import { hold, locate } from "./candidate.ts"
import { operations } from "./operations.ts"
import { read } from "./readData.ts"
import { written } from "./writeData.ts"

let present: Readonly<Record<string, unknown>>

operations.load = (source: string | null, namesText: string) => {
  const names = parse(namesText) as ReadonlyArray<string>
  try {
    present = locate(hold(source), names)
    let out = ""
    for (let index = 0; index < names.length; index++) {
      const value = present[names[index]!]
      out += index === 0 ? "" : ","
      if (value === undefined) out += '["n"]'
      else out += typeof value === "function" ? '["f"]' : '["d",' + written(value) + "]"
    }
    return "v[" + out + "]"
  } catch (error) {
    return failure("l", error)
  }
}

operations.apply = (entry: string, argumentsText: string) => {
  try {
    const args = read(parse(argumentsText)) as []
    const result = apply(present[entry] as () => unknown, undefined, args)
    if (typeof result !== "object" || result === null || getPrototypeOf(result) !== PromisePrototype) {
      return "v" + written(result)
    }
    return (async () => {
      try {
        return "p" + written(await result)
      } catch (error) {
        return failure("r", error)
      }
    })()
  } catch (error) {
    return failure("e", error)
  }
}
