/** Text of a thrown value. No getter of it runs. */
import { apply, getOwnPropertyDescriptor, getPrototypeOf, slice } from "./intrinsics.ts"
import { TooDeep, TooMuch } from "./writeData.ts"

/** The own property's text; undefined if it is an accessor, or not text. */
const ownText = (object: object, key: string): string | undefined => {
  const found = getOwnPropertyDescriptor(object, key)
  const value = found === undefined ? undefined : getOwnPropertyDescriptor(found, "value")
  return value !== undefined && typeof value.value === "string" ? value.value : undefined
}

const told = (error: unknown): string => {
  if (typeof error === "string") return apply(slice, error, [0, 200])
  if (typeof error !== "object" || error === null) return "a thrown " + typeof error
  let name = "Error"
  let holder: object | null = error
  for (let up = 0; up < 3 && typeof holder === "object" && holder !== null; up++) {
    const found = ownText(holder, "name")
    if (found !== undefined) {
      name = found
      break
    }
    holder = getPrototypeOf(holder)
  }
  const message = ownText(error, "message") ?? ""
  return apply(slice, name, [0, 40]) + ": " + apply(slice, message, [0, 200])
}

/** The answer of an operation that threw. */
export const failure = (letter: string, error: unknown): string => {
  if (error === TooMuch) return "o"
  if (error === TooDeep) return "ethe result is nested too deeply"
  return letter + told(error)
}
