/**
 * Tasks and their sources: arrays, JSONL files, procedural generators.
 *
 * A source is split into training and held-out tasks, and drawn as a stream that can resume at any draw.
 *
 * ```ts
 * const { heldOut, train } = Task.split(Task.jsonl("tasks.jsonl"), { heldOut: 0.1, seed: 1 })
 * const draws = Task.stream(train, { seed: 1, from: 320 })   // Stream<Drawn>
 * ```
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { ConversationSchema, type Message, MessagesSchema, type Prompt } from "../text/Conversation.ts"
import { type Place, readJsonl, Row } from "./internal/jsonl.ts"
import { permutation } from "../internal/random.ts"
import { templateColumns } from "./internal/templateColumns.ts"
import { show, TaskError } from "./internal/TaskError.ts"

export { TaskError } from "./internal/TaskError.ts"
export type { Conversation, Message, Prompt, ToolCall, ToolDefinition } from "../text/Conversation.ts"

/** One problem: the policy's prompt, and the data that verifiers need. */
export interface Task<out Data = unknown> {
  /** Unique within the source; keys the random numbers of the task's samples. */
  readonly id: string
  readonly prompt: Prompt
  readonly data: Data
}

/** Tasks by number. `at` is pure, so a run can resume at any task without making the earlier ones. */
export interface Tasks<out Data = unknown> {
  /** Number of tasks; infinite for a generator. */
  readonly length: number
  /** Returns a task, or `undefined` if no task has this number; a stream then skips the number. */
  readonly at: (index: number) => Task<Data> | undefined
}

/** A source of tasks. Loading reads and checks everything. */
export interface Source<out Data = unknown> {
  readonly name: string
  readonly load: Effect.Effect<Tasks<Data>, TaskError>
}

/** One draw of a task stream. */
export interface Drawn<out Data = unknown> {
  readonly task: Task<Data>
  /** Number of the pass over the source, from 0. */
  readonly epoch: number
  /** Position in the stream; a stream `from` cursor + 1 continues right after it. */
  readonly cursor: number
}

const finite = Effect.fnUntraced(function* <Data>(
  source: string,
  tasks: ReadonlyArray<Task<Data>>,
  place: (index: number) => string
): Effect.fn.Return<Tasks<Data>, TaskError> {
  const seen = new Map<string, number>()
  for (const [index, { id }] of tasks.entries()) {
    const earlier = seen.get(id)
    if (earlier !== undefined) {
      return yield* new TaskError({
        source,
        place: place(index),
        field: "id",
        value: show(id),
        problem: `the id was used before, at ${place(earlier)}`,
        remedy: "Give every task an id of its own: it keys the random numbers of its samples"
      })
    }
    seen.set(id, index)
  }
  return { length: tasks.length, at: (index) => tasks[index] }
})

/** Makes a source from an array. Loading refuses a duplicate id. */
export const fromArray = <Data>(tasks: ReadonlyArray<Task<Data>>, name = "array"): Source<Data> => ({
  name,
  load: Effect.suspend(() => finite(name, tasks, (index) => `index ${index}`))
})

/**
 * Makes an endless source from a function.
 *
 * `at(index)` makes a task and must be pure in `index`, since a resumed run calls it again. A stream takes the indexes
 * in order, so the generator itself must shuffle.
 *
 * ```ts
 * const sums = Task.generate("sums", (index) => ({ id: `sum-${index}`, prompt: `${index % 9}+4=?`, data: (index % 9) + 4 }))
 * ```
 */
export const generate = <Data>(name: string, at: (index: number) => Task<Data>): Source<Data> => ({
  name,
  load: Effect.succeed({ length: Infinity, at })
})

const TokenIds = Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xffffffff })))
const PromptField = Schema.Union([Schema.String, MessagesSchema, ConversationSchema, TokenIds])
const decodePrompt = Schema.decodeUnknownResult(PromptField)
const decodeId = Schema.decodeUnknownResult(Schema.Union([Schema.String, Schema.Finite]))
const isMessages = (list: ReadonlyArray<Message> | ReadonlyArray<number>): list is ReadonlyArray<Message> =>
  typeof list[0] === "object"

export interface JsonlOptions<in Data> {
  /** Field that holds the id, a string or a number. Default `id`; if it is absent, the line's number. */
  readonly id?: string
  /** Field that holds the prompt (text, messages, `{ messages, tools }` or token ids), or how to make it. Default `prompt`. */
  readonly prompt?: string | ((data: Data) => Prompt)
  /** Field that defines the tools for a prompt of messages. Default `tools`; `false` means that there is none. */
  readonly tools?: string | false
}

/**
 * Makes a source from a file with one JSON object per line.
 *
 * Each object has `prompt`, optionally `id`, and the data of its verifiers. `schema` decodes the whole object to that
 * data; without a schema the object itself is the data. Blank lines are skipped. Everything is read and checked when
 * the source is loaded. An error names the file, the line, the field, the value and what to do.
 *
 * ```ts
 * const tasks = Task.jsonl("train.jsonl", Schema.Struct({ answer: Schema.Int }))   // Source<{ answer: number }>
 * ```
 */
export const jsonl: {
  (path: string): Source<Readonly<Record<string, unknown>>>
  <Data>(path: string, schema: Schema.Decoder<Data>, options?: JsonlOptions<Data>): Source<Data>
} = (path: string, schema: Schema.Decoder<unknown> = Row, options: JsonlOptions<never> = {}): Source<never> => {
  const { id: idField = "id", prompt: promptField = "prompt", tools: toolsField = "tools" } = options
  const decodeData = Schema.decodeUnknownResult(schema)

  const parse = Effect.fnUntraced(function* (row: Row, place: Place): Effect.fn.Return<Task<never>, TaskError> {
    const { decode, name } = place
    // The value that `schema` decodes to; the overloads know its type.
    const data = (yield* decode(
      decodeData(row),
      row,
      "",
      "Correct the line, or the schema given to Task.jsonl"
    )) as never
    const id =
      row[idField] === undefined
        ? name
        : String(yield* decode(decodeId(row[idField]), row[idField], idField, "Make it a string or a number"))
    if (typeof promptField !== "string") return { id, prompt: promptField(data), data }
    const prompt = yield* decode(
      decodePrompt(row[promptField]),
      row[promptField],
      promptField,
      "Give text, an array of { role, content }, { messages, tools } or an array of token ids; " +
        "name another field with options.prompt"
    )
    if (typeof prompt === "string" || "messages" in prompt) return { id, prompt, data }
    if (!isMessages(prompt)) return { id, prompt: Uint32Array.from(prompt), data }
    if (toolsField === false) return { id, prompt, data }
    const remedy =
      "Give function definitions as JSON schemas, or say options.tools: false if the field is something else"
    const columns = yield* templateColumns(row, place, toolsField, remedy)
    return { id, prompt: Object.keys(columns).length === 0 ? prompt : { messages: prompt, ...columns }, data }
  })

  const load = Effect.flatMap(readJsonl(path, parse), (rows) =>
    finite(
      path,
      rows.map(({ value }) => value),
      (index) => rows[index]!.place
    )
  )
  return { name: path, load }
}

/** Key by which two tasks are the same problem: prompt and data. `undefined` for data that JSON cannot distinguish. */
const problemOf = (task: Task): string | undefined => {
  try {
    return JSON.stringify([task.prompt, task.data])
  } catch {
    return undefined
  }
}

export interface SplitOptions {
  /** A share between 0 and 1, or a number of tasks from 1. An endless source needs a number. */
  readonly heldOut: number
  readonly seed: number
}

/**
 * Sets tasks aside for evaluation.
 *
 * They are drawn at random from a finite source; of an endless source they are the first ones. A training task with the
 * same prompt and data as a held-out one is skipped, so the policy never trains on what is measured. Generators of
 * small spaces make such duplicates.
 */
export const split = <Data>(
  source: Source<Data>,
  { heldOut, seed }: SplitOptions
): { readonly train: Source<Data>; readonly heldOut: Source<Data> } => {
  const parts = Effect.gen(function* () {
    const tasks = yield* source.load
    const fail = (problem: string, remedy: string) =>
      new TaskError({ source: source.name, place: "", field: "heldOut", value: String(heldOut), problem, remedy })
    const count = heldOut < 1 ? Math.round(heldOut * tasks.length) : heldOut
    if (!Number.isInteger(count)) {
      return yield* fail(
        "an endless source needs a number of tasks, not a share",
        "Give the number of tasks, for instance 100"
      )
    }
    if (count < 1 || count >= tasks.length) {
      return yield* fail(`a split of ${tasks.length} tasks leaves one side empty`, "Hold out at least one, and not all")
    }
    const endless = tasks.length === Infinity
    const order = endless ? undefined : permutation(tasks.length, `split ${seed}`)
    // Held-out tasks keep the order of the source, so that a table of them reads like the file.
    const aside =
      order === undefined ? Uint32Array.from({ length: count }, (_, i) => i) : order.slice(0, count).toSorted()
    const rest = order?.slice(count).toSorted()
    const chosen: Array<Task<Data>> = []
    for (const index of aside) {
      const task = tasks.at(index)
      if (task !== undefined) chosen.push(task)
    }
    const reserved = new Set(chosen.map(problemOf))
    reserved.delete(undefined)
    const train: Tasks<Data> = {
      length: tasks.length - count,
      at: (index) => {
        const original = rest === undefined ? count + index : rest[index]
        const task = original === undefined ? undefined : tasks.at(original)
        return task === undefined || reserved.has(problemOf(task)) ? undefined : task
      }
    }
    return { train, heldOut: yield* finite(source.name, chosen, (index) => `index ${aside[index]}`) }
  })
  return {
    train: { name: `${source.name} (train)`, load: Effect.map(parts, (both) => both.train) },
    heldOut: { name: `${source.name} (held out)`, load: Effect.map(parts, (both) => both.heldOut) }
  }
}

/** Returns the order of epoch `epoch` over `length` items. It depends on nothing else, on any platform. */
export const shuffled = (length: number, seed: number, epoch: number): ReadonlyArray<number> =>
  Array.from(permutation(length, `epoch ${epoch} of ${seed}`))

export interface StreamOptions {
  readonly seed: number
  /** Passes over a finite source. Default: without end. */
  readonly epochs?: number
  /** First position; earlier ones are neither made nor drawn. Default 0. */
  readonly from?: number
  /** Whether every epoch has another order. Only finite sources are shuffled. Default true. */
  readonly shuffle?: boolean
}

// A source that keeps skipping tasks is broken, not slow.
const MAX_PASSED_OVER = 100_000

/**
 * Draws tasks, epoch after epoch.
 *
 * The order of each epoch depends on `seed` and the epoch alone. The stream makes one task at a time and none ahead.
 */
export const stream = <Data>(source: Source<Data>, options: StreamOptions): Stream.Stream<Drawn<Data>, TaskError> => {
  const { epochs = Infinity, from = 0, seed, shuffle = true } = options
  const fail = (problem: string, remedy: string) =>
    new TaskError({ source: source.name, place: "", field: "", value: "", problem, remedy })
  return Stream.unwrap(
    Effect.gen(function* () {
      const { at, length } = yield* source.load
      if (length === 0) return yield* fail("holds no task", "Add one")
      let orderEpoch = -1
      let order: ReadonlyArray<number> = []
      const indexAt = (cursor: number): number => {
        if (length === Infinity) return cursor
        if (!shuffle) return cursor % length
        const epoch = Math.floor(cursor / length)
        if (epoch !== orderEpoch) {
          order = shuffled(length, seed, epoch)
          orderEpoch = epoch
        }
        return order[cursor % length]!
      }
      return Stream.unfold(from, (start) =>
        Effect.suspend((): Effect.Effect<readonly [Drawn<Data>, number] | undefined, TaskError> => {
          for (let cursor = start; cursor < start + MAX_PASSED_OVER; cursor++) {
            const epoch = length === Infinity ? 0 : Math.floor(cursor / length)
            if (epoch >= epochs) return Effect.undefined
            const task = at(indexAt(cursor))
            if (task !== undefined) return Effect.succeed([{ task, epoch, cursor }, cursor + 1])
          }
          return Effect.fail(
            fail(
              `none of ${MAX_PASSED_OVER} positions from ${start} on holds a task`,
              "Hold out fewer tasks, or enlarge the generator's space"
            )
          )
        })
      )
    })
  )
}
