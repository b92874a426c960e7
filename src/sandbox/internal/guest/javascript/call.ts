/** Calls of one function of a candidate. */
import { apply, parse } from "./intrinsics.ts"
import { failure } from "./failure.ts"
import { hold, locate } from "./candidate.ts"
import { operations } from "./operations.ts"
import { read } from "./readData.ts"
import { written } from "./writeData.ts"

/** Found by the first call of a realm: the calls of an evaluation follow one another in it. */
let called: unknown

operations.call = async (source: string | null, entry: string, argumentsText: string) => {
  // The arguments are read before the candidate's code runs, with what JSON.parse still is.
  const args = read(parse(argumentsText)) as ReadonlyArray<unknown>
  let stage = "l"
  try {
    if (called === undefined) {
      const found = locate(hold(source), [entry])[entry]
      if (typeof found !== "function") return "lno function named " + entry
      called = found
    }
    stage = "e"
    return "v" + written(await apply(called as () => unknown, undefined, args as []))
  } catch (error) {
    return failure(stage, error)
  }
}
