/** Reads a value in the format of TypedData.ts. The text is the host's. */
import { apply, BigIntOf, DateOf, define, MapOf, mapSet, NumberOf, setAdd, SetOf } from "./intrinsics.ts"

type Tagged = ReadonlyArray<unknown>

const readArray = (tagged: Tagged): Array<unknown> => {
  const count = tagged.length
  const array: Array<unknown> = []
  array.length = count - 1
  for (let index = 1; index < count; index++) {
    const item = tagged[index]
    if (typeof item === "object" && item !== null && (item as Tagged)[0] === "h") continue
    define(array, index - 1, read(item))
  }
  return array
}

export const read = (value: unknown): unknown => {
  if (typeof value !== "object" || value === null) return value
  const tagged = value as Tagged
  const count = tagged.length
  switch (tagged[0]) {
    case "n":
      return NumberOf(tagged[1])
    case "i":
      return BigIntOf(tagged[1] as string)
    case "d":
      return new DateOf(tagged[1] === null ? NaN : (tagged[1] as number))
    case "a":
      return readArray(tagged)
    case "o": {
      const object = {}
      for (let index = 1; index < count; index += 2) define(object, tagged[index] as string, read(tagged[index + 1]))
      return object
    }
    case "m": {
      const map = new MapOf()
      for (let index = 1; index < count; index += 2) apply(mapSet, map, [read(tagged[index]), read(tagged[index + 1])])
      return map
    }
    case "s": {
      const set = new SetOf()
      for (let index = 1; index < count; index++) apply(setAdd, set, [read(tagged[index])])
      return set
    }
    // "u", and what is unknown
    default:
      return undefined
  }
}
