/**
 * Turns tasks into groups of trajectories: the stage in which the policy acts.
 *
 * A group's first turn is one request to the sampler, so its prompt is computed once. Later turns are requests of their
 * own. An `Assembler` joins them by token ids, so the policy's text is never encoded again.
 *
 * The run's seed, the task, its draw and its index key a trajectory's random numbers. Its tokens therefore do not
 * depend on what else is in flight, and a resumed run repeats them. Groups leave in the order of their draws, not of
 * completion, because an update must see the same batch after a resume.
 *
 * A bad episode is data, not a crash. If an environment fails, the trajectory is tried again from a fresh episode with
 * the same random numbers. If all retries fail, it is left out and recorded in the group's `failures`, and its siblings
 * continue. The stream fails only if {@link MAX_LOST_GROUPS} groups in a row lose every trajectory.
 */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import type { Drawn } from "../data/Task.ts"
import { EngineError } from "../engine/EngineError.ts"
import { type Completion, Sampler, type SampleRequest, type SamplingParameters } from "../engine/Sampler.ts"
import { randomStream } from "../internal/random.ts"
import type { Tokenizer } from "../text/Tokenizer.ts"
import { type Environment, EnvironmentError } from "./Environment.ts"
import { episode, type Setting } from "./internal/episode.ts"
import { promptTokens, stopTokensOf } from "./internal/observation.ts"
import { type Group, Producer } from "./Trajectory.ts"

export { promptTokens } from "./internal/observation.ts"

export interface RolloutOptions<in Data, out R = never> {
  readonly environment: Environment<Data, R>
  readonly tokenizer: Tokenizer
  /** Trajectories per group (G). Default 8. */
  readonly size?: number
  readonly seed: number
  /** Settings of the sampler. Default: temperature 1, without top-k, top-p or min-p. */
  readonly sampling?: Omit<SamplingParameters, "maxTokens" | "stop" | "stopTokens">
  /**
   * Whether an update of the present weights will read the samples ({@link SampleRequest.forTraining}). Default false.
   */
  readonly forTraining?: boolean
  /** Most groups in flight. Default 16. */
  readonly concurrency?: number
  /** Fresh episodes that are tried after an environment failed, before the trajectory is left out. Default 1. */
  readonly retries?: number
  /** Most milliseconds that an environment may take to start or to answer a turn. Default 60,000. */
  readonly deadline?: number
  /**
   * Tokens that the model has room for; an episode that reaches it ends with `context`. Default: the sampler's own
   * limit.
   */
  readonly contextLength?: number
}

/** Groups in a row without any surviving trajectory after which a rollout fails. */
export const MAX_LOST_GROUPS = 8

/** Rejects a completion that is missing, or whose arrays do not fit: it is the engine's fault. */
const checked = (completions: ReadonlyArray<Completion>, count: number, task: string) => {
  const fail = (detail: string) => new EngineError({ operation: "sample", reason: { _tag: "Shape", detail } })
  if (completions.length !== count) {
    return Effect.fail(fail(`asked for ${count} completions of task ${task}, got ${completions.length}`))
  }
  for (const { logprobs, tokens, versions } of completions) {
    if (logprobs.length !== tokens.length || versions.length !== tokens.length) {
      const have = `${logprobs.length} log-probabilities and ${versions.length} versions`
      return Effect.fail(fail(`a completion of task ${task} has ${tokens.length} tokens, but ${have}`))
    }
  }
  return Effect.succeed(completions)
}

/** Calls the sampler within the room that the model's context leaves. */
const samplerOf = <Data, R>(options: RolloutOptions<Data, R>, sampler: Sampler["Service"], task: string) => {
  const { contextLength = Infinity, environment, tokenizer } = options
  return Effect.fnUntraced(function* (
    prompt: Uint32Array,
    key: SampleRequest["key"],
    count: number
  ): Effect.fn.Return<ReadonlyArray<Completion>, EngineError> {
    const room = contextLength - prompt.length
    const completions = yield* sampler.sample({
      ...options.sampling,
      ...(options.forTraining ? { forTraining: true } : {}),
      prompt,
      count,
      key,
      maxTokens: Math.min(environment.maxTokens, room),
      stopTokens: stopTokensOf(tokenizer),
      ...(environment.stop === undefined ? {} : { stop: environment.stop })
    })
    // The model's limit was hit, not the environment's.
    const short = room < environment.maxTokens
    return (yield* checked(completions, count, task)).map((completion) =>
      short && completion.stopReason === "length" ? { ...completion, stopReason: "context" } : completion
    )
  })
}

/** Confines a fault of the environment, which is the user's code, or its delay to its own episode. */
const guard =
  (deadline: number, lost: (cause: unknown) => EnvironmentError): Setting<never, never>["guarded"] =>
  (run, awaited) =>
    Effect.suspend(run).pipe(
      Effect.catchDefect((defect) => Effect.fail(lost(defect))),
      Effect.timeoutOrElse({
        duration: deadline,
        orElse: () => Effect.fail(lost(new Error(`${awaited} took more than ${deadline} ms; raise Rollout's deadline`)))
      })
    )

/** Makes the group's prompt, as the environment defines it. */
const promptOf = <Data, R>(
  { contextLength = Infinity, environment, retries = 1, tokenizer }: RolloutOptions<Data, R>,
  task: Drawn<Data>["task"],
  { guarded, lost }: Pick<Setting<Data, R>, "guarded" | "lost">
) =>
  guarded(() => {
    const asked = environment.prompt?.(task) ?? task.prompt
    return Effect.isEffect(asked) ? asked : Effect.succeed(asked)
  }, "prompt").pipe(
    Effect.retry({ times: retries }),
    Effect.flatMap((asked) =>
      Effect.try({ try: () => ({ asked, tokens: promptTokens(asked, tokenizer) }), catch: lost })
    ),
    Effect.filterOrFail(
      ({ tokens: { length } }) => length > 0 && length < contextLength,
      ({ tokens: { length } }) =>
        lost(new Error(`the prompt has ${length} tokens; it needs at least one and less than ${contextLength}`))
    )
  )

/** Rolls out one task. Succeeds even if every trajectory was lost; fails only with the sampler. */
export const group = Effect.fnUntraced(function* <Data, R>(
  options: RolloutOptions<Data, R>,
  { cursor, task }: Drawn<Data>
): Effect.fn.Return<Group<Data>, EngineError, R | Sampler> {
  const { contextLength = Infinity, environment, retries = 1, seed, size = 8, tokenizer } = options
  const stream = `${task.id}#${cursor}`
  const lost = (cause: unknown) =>
    cause instanceof EnvironmentError
      ? cause
      : new EnvironmentError({ environment: environment.name, taskId: task.id, cause })
  const guarded = guard(options.deadline ?? 60_000, lost)
  const sample = samplerOf(options, yield* Sampler, task.id)

  const prompt = yield* Effect.result(promptOf(options, task, { guarded, lost }))
  if (prompt._tag === "Failure") {
    return { task, cursor, trajectories: [], failures: Array.from({ length: size }, () => prompt.failure) }
  }
  const { asked, tokens } = prompt.success
  const setting: Setting<Data, R> = {
    environment,
    task,
    tokenizer,
    contextLength,
    temperature: options.sampling?.temperature ?? 1,
    given: { asked, tokens, producers: new Uint8Array(tokens.length).fill(Producer.Template) },
    // Each turn has its own random stream: numbers are drawn by position within a completion, and would repeat.
    sample: (context, turns, index) =>
      Effect.map(sample(context, { seed, stream: `${stream}/${turns}`, index }, 1), ([completion]) => completion!),
    lost,
    guarded
  }

  const sampling = performance.now()
  const firsts = yield* sample(tokens, { seed, stream, index: 0 }, size)
  const seconds = (performance.now() - sampling) / 1000
  const results = yield* Effect.forEach(
    firsts,
    (completion, index) =>
      episode(setting, { completion, seconds }, { index, seed: episodeSeed(seed, stream, index) }).pipe(
        Effect.retry({ times: retries, while: (error) => error._tag === "EnvironmentError" }),
        Effect.map((trajectory) => ({ trajectory })),
        Effect.catchTag("EnvironmentError", (failure) => Effect.succeed({ failure }))
      ),
    { concurrency: "unbounded" }
  )
  const trajectories = results.flatMap((result) => ("trajectory" in result ? [result.trajectory] : []))
  const failures = results.flatMap((result) => ("failure" in result ? [result.failure] : []))
  return { task, cursor, trajectories, ...(failures.length === 0 ? {} : { failures }) }
})

const episodeSeed = (seed: number, stream: string, index: number): number =>
  randomStream(`environment ${seed} ${index} ${stream}`)()

/**
 * Rolls out a stream of tasks.
 *
 * At most `concurrency` groups are in flight. Interruption ends them and the sampler's work for them.
 *
 * ```ts
 * Task.stream(tasks, { seed: 1 }).pipe(
 *   Rollout.groups({ environment: Environment.singleTurn({ maxTokens: 64 }), tokenizer, size: 8, seed: 1 })
 * )
 * ```
 */
export const groups =
  <Data, R = never>(options: RolloutOptions<Data, R>) =>
  <D extends Data, E, R2>(
    draws: Stream.Stream<Drawn<D>, E, R2>
  ): Stream.Stream<Group<D>, E | EngineError | EnvironmentError, R | R2 | Sampler> =>
    Stream.suspend(() => {
      let lostInARow = 0
      return draws.pipe(
        Stream.mapEffect((drawn) => group<D, R>(options, drawn), { concurrency: options.concurrency ?? 16 }),
        Stream.mapEffect((group): Effect.Effect<Group<D>, EnvironmentError> => {
          lostInARow = group.trajectories.length === 0 ? lostInARow + 1 : 0
          const [failure] = group.failures ?? []
          return lostInARow >= MAX_LOST_GROUPS && failure !== undefined ? Effect.fail(failure) : Effect.succeed(group)
        })
      )
    })
