import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Stream from "effect/Stream"

/** One problem: what the policy is asked, and the data its verifiers need. */
export interface Message {
  readonly role: "system" | "user" | "assistant" | "tool"
  readonly content: string
}

/** Text, a conversation, or token ids that are used as they are. */
export type Prompt = string | ReadonlyArray<Message> | Uint32Array

export interface Task<out Data = unknown> {
  /** Unique within its source; keys the random numbers of its samples. */
  readonly id: string
  readonly prompt: Prompt
  readonly data: Data
}

export class TaskError extends Schema.TaggedError<TaskError>()("TaskError", {
  source: Schema.String,
  /** Line (JSONL, from 1) or index (from 0) of the offending task; -1 when it is the source as a whole. */
  at: Schema.Number,
  field: Schema.String,
  value: Schema.String,
  problem: Schema.String,
  remedy: Schema.String
}) {}

/** Tasks by number: `at` is pure, so that a run can resume at any of them without making those before it. */
export interface Tasks<out Data = unknown> {
  /** Infinite for a generator. */
  readonly length: number
  /** `undefined`: there is no task of this number, and a stream passes over it. */
  readonly at: (index: number) => Task<Data> | undefined
}

/** Where tasks come from. Loading reads and checks everything that can be wrong with it. */
export interface Source<out Data = unknown> {
  readonly name: string
  readonly load: Effect.Effect<Tasks<Data>, TaskError>
}

/** One draw of a task stream. */
export interface Drawn<out Data = unknown> {
  readonly task: Task<Data>
  /** Which pass over the source, from 0. */
  readonly epoch: number
  /** Draws before this one; a stream `from` cursor + 1 continues right after it. */
  readonly cursor: number
}

export declare const fromArray: <Data>(tasks: ReadonlyArray<Task<Data>>, name?: string) => Source<Data>
export declare const generate: <Data>(name: string, at: (index: number) => Task<Data>) => Source<Data>
export declare const split: <Data>(
  source: Source<Data>,
  options: { readonly heldOut: number; readonly seed: number }
) => { readonly train: Source<Data>; readonly heldOut: Source<Data> }
export declare const stream: <Data>(
  source: Source<Data>,
  options: { readonly seed: number; readonly epochs?: number; readonly from?: number }
) => Stream.Stream<Drawn<Data>, TaskError>
