/** Tasks into groups of trajectories: the stage that lets the policy act. */
import type * as Stream from "effect/Stream"
import type { Environment, EnvironmentError } from "./Environment.ts"
import type { Sampler, SamplerError, SamplingParameters } from "./Sampler.ts"
import type { Drawn } from "./Task.ts"
import type { Tokenizer } from "./Tokenizer.ts"
import type { Group } from "./Trajectory.ts"

export interface RolloutOptions<in Data> {
  readonly environment: Environment<Data>
  readonly tokenizer: Tokenizer
  /** Trajectories per group (G). Default 8. */
  readonly size?: number
  readonly seed: number
  /** Temperature and the like. Default: temperature 1, nothing cut off. */
  readonly sampling?: Omit<SamplingParameters, "maxTokens" | "stop" | "stopTokens">
  /** Groups in flight. Default 16. */
  readonly concurrency?: number
  /** Fresh episodes tried after an environment failed, before the trajectory is left out. Default 1. */
  readonly retries?: number
  /** Tokens the model has room for; an episode that reaches it ends with `context`. */
  readonly contextLength?: number
}

export declare const groups: <Data>(
  options: RolloutOptions<Data>
) => <E, R>(
  draws: Stream.Stream<Drawn<Data>, E, R>
) => Stream.Stream<Group<Data>, E | SamplerError | EnvironmentError, R | Sampler>
