/** `format` as an assertion: the formats of ajv-formats, their expressions run by the linear-time engine. */
import { isIPv4, isIPv6 } from "node:net"
import type { Format } from "ajv"
import { fullFormats } from "ajv-formats/dist/formats.js"
import { RE2JS } from "re2js"

/** A host name of RFC 1123: labels of letters, digits and inner hyphens, 63 characters each, 253 together. */
const hostname = (text: string): boolean =>
  text.length <= 253 && text.split(".").every((label) => /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/i.test(label))

const linear = (expression: RegExp): ((text: string) => boolean) | undefined => {
  try {
    const compiled = RE2JS.compile(
      RE2JS.translateRegExp(expression.source),
      expression.ignoreCase ? RE2JS.CASE_INSENSITIVE : 0
    )
    return (text) => compiled.matcher(text).find()
  } catch {
    // look-around: replaced below, or left out
    return undefined
  }
}

/** PnYnMnDTnHnMnS or PnW, with something in it, and after T too (RFC 3339, appendix A). */
const duration = (text: string): boolean =>
  /^P(?:\d+W|(?:\d+Y)?(?:\d+M)?(?:\d+D)?(?:T(?:\d+H)?(?:\d+M)?(?:\d+S)?)?)$/.test(text) && /\d[A-Z]$/.test(text)

const own: Readonly<Record<string, Format>> = {
  hostname,
  duration,
  ipv4: (text: string) => isIPv4(text),
  ipv6: (text: string) => isIPv6(text) && !text.includes("%"),
  regex: (text: string) => {
    try {
      return new RegExp(text, "u") instanceof RegExp && !/\\Z/.test(text)
    } catch {
      return false
    }
  }
}

let made: Readonly<Record<string, Format>> | undefined

/** By name; a format that is not here is not asserted. */
export const formats = (): Readonly<Record<string, Format>> => {
  if (made !== undefined) return made
  const safe: Array<readonly [string, Format]> = []
  for (const [name, format] of Object.entries(fullFormats)) {
    if (!(format instanceof RegExp)) safe.push([name, format as Format])
    else {
      const compiled = linear(format)
      if (compiled !== undefined) safe.push([name, compiled])
    }
  }
  return (made = { ...Object.fromEntries(safe), ...own })
}
