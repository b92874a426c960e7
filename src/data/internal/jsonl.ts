/** Files of one JSON object per line, decoded field by field. Errors name the line, the field and the value. */
import * as Effect from "effect/Effect"
import type * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import * as Fs from "node:fs/promises"
import { show, TaskError } from "./TaskError.ts"

export type Row = Readonly<Record<string, unknown>>
export const Row = Schema.Record(Schema.String, Schema.Unknown)

const decodeRow = Schema.decodeUnknownResult(Row)
const issuesOf = SchemaIssue.makeFormatterStandardSchemaV1()

/** Makes the errors of one line. */
export interface Place {
  readonly name: string
  readonly fail: (field: string, value: unknown, problem: string, remedy: string) => TaskError
  /** Returns the decoded row, or fails with the first fault: its field and that field's value. */
  readonly decode: <A>(
    result: Result.Result<A, Schema.SchemaError>,
    value: unknown,
    field: string,
    remedy: string
  ) => Effect.Effect<A, TaskError>
}

export const placeIn = (source: string, name: string): Place => {
  const fail: Place["fail"] = (field, value, problem, remedy) =>
    new TaskError({ source, place: name, field, value: value === undefined ? "" : show(value), problem, remedy })
  return {
    name,
    fail,
    decode: (result, value, at, remedy) =>
      Effect.mapError(Effect.fromResult(result), (error) => {
        const [issue] = issuesOf(error.issue).issues
        const keys = (issue?.path ?? []).map((key) => (typeof key === "object" ? key.key : key))
        const found = keys.reduce((inner, key) => (inner as Record<PropertyKey, unknown> | undefined)?.[key], value)
        const field = [at, ...keys.map(String)].filter((part) => part !== "").join(".")
        return fail(field, found, issue?.message ?? error.message, remedy)
      })
  }
}

/** Reads every line that is not blank, through `parse`. */
export const readJsonl = Effect.fnUntraced(function* <A>(
  path: string,
  parse: (row: Row, place: Place) => Effect.Effect<A, TaskError>
): Effect.fn.Return<ReadonlyArray<{ readonly value: A; readonly place: string }>, TaskError> {
  const text = yield* Effect.tryPromise({
    try: (signal) => Fs.readFile(path, { encoding: "utf8", signal }),
    catch: (cause) => {
      const problem = `cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`
      return placeIn(path, "").fail("", undefined, problem, "Check the path; it is relative to the working directory")
    }
  })
  const values: Array<{ readonly value: A; readonly place: string }> = []
  for (const [index, line] of text.split("\n").entries()) {
    if (line.trim() === "") continue
    const place = placeIn(path, `line ${index + 1}`)
    const json = yield* Effect.try({
      try: () => JSON.parse(line) as unknown,
      catch: (cause) => place.fail("", line, `not JSON: ${String(cause)}`, "Write one JSON object per line")
    })
    const row = yield* place.decode(decodeRow(json), json, "", "Write one JSON object per line")
    values.push({ value: yield* parse(row, place), place: place.name })
  }
  return values
})
