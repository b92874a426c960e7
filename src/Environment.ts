/**
 * How an episode of a task runs: single turn, multi-turn, with tools. An episode is single-use: `start` makes a fresh
 * one for every trajectory, and its scope ends with the episode.
 */
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { Prompt, Task } from "./Task.ts"

/** What the policy did in one turn. */
export interface Turn {
  readonly text: string
  readonly tokens: Uint32Array
  readonly stopReason: "stop" | "length" | "context"
}

/** What the environment answers: the end of the episode, or an observation after which the policy goes on. */
export type Step =
  | { readonly done: true; readonly info?: Readonly<Record<string, unknown>>; readonly metrics?: Readonly<Record<string, number>> }
  | { readonly done: false; readonly observation: string | Uint32Array }

export class EnvironmentError extends Schema.TaggedError<EnvironmentError>()("EnvironmentError", {
  environment: Schema.String,
  taskId: Schema.String,
  cause: Schema.Defect()
}) {
  override get message(): string {
    return `environment ${this.environment} failed on task ${this.taskId}: ${String(this.cause)}`
  }
}

export interface Episode {
  readonly step: (turn: Turn) => Effect.Effect<Step, EnvironmentError>
}

export interface Environment<in Data = unknown> {
  readonly name: string
  /** Policy tokens per turn. */
  readonly maxTokens: number
  /** Turns after which the episode ends with `length`. Default 1. */
  readonly maxTurns?: number
  /** Strings that end a turn, besides the tokenizer's end of text. */
  readonly stop?: ReadonlyArray<string>
  /** The prompt the policy sees; by default the task's own. */
  readonly prompt?: (task: Task<Data>) => Prompt
  readonly start: (task: Task<Data>) => Effect.Effect<Episode, EnvironmentError, Scope.Scope>
}
