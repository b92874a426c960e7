/**
 * Tasks into groups of trajectories: the stage that lets the policy act.
 *
 * A group's first turn is one request to the sampler, its prompt computed once for all; later turns are requests of
 * their own. Token ids are only ever appended. The random numbers of a trajectory are keyed by the run's seed, the task,
 * its draw and its index, so its tokens do not depend on what else is in flight, and a resumed run repeats them. Groups
 * leave in the order of their draws, whichever is done first, since an update must see the same batch after a resume.
 *
 * A bad episode is data, not a crash: when an environment fails, the trajectory is tried again from a fresh episode
 * (with the same random numbers), then left out and recorded in the group's `failures`; its siblings go on. Only when
 * {@link MAX_LOST_GROUPS} groups in a row lose every trajectory is something broken: the stream then fails.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import { isConversation, renderOptions } from "../text/Conversation.ts"
import type { Environment, Step, Turn } from "./Environment.ts"
import { EnvironmentError } from "./Environment.ts"
import type { Completion, SampleRequest, SamplingParameters } from "../engine/Sampler.ts"
import { EngineError } from "../engine/EngineError.ts"
import { Sampler } from "../engine/Sampler.ts"
import type { Drawn, Message, Prompt } from "../data/Task.ts"
import { encodePrompt, type Tokenizer } from "../text/Tokenizer.ts"
import { type Group, Producer, type StopReason, type Trajectory } from "./Trajectory.ts"

export interface RolloutOptions<in Data> {
  readonly environment: Environment<Data>
  readonly tokenizer: Tokenizer
  /** Trajectories per group (G). Default 8. */
  readonly size?: number
  readonly seed: number
  /** Temperature and the like. Default: temperature 1, nothing cut off. */
  readonly sampling?: Omit<SamplingParameters, "maxTokens" | "stop" | "stopTokens">
  /** An update of the present weights will read the samples ({@link SampleRequest.forTraining}). Default false. */
  readonly forTraining?: boolean
  /** Groups in flight. Default 16. */
  readonly concurrency?: number
  /** Fresh episodes tried after an environment failed, before the trajectory is left out. Default 1. */
  readonly retries?: number
  /** Milliseconds that an environment may take to start or to answer a turn. Default 60,000. */
  readonly deadline?: number
  /** Tokens the model has room for; an episode that reaches it ends with `context`. Default: the sampler's word. */
  readonly contextLength?: number
}

/** Groups in a row without a single surviving trajectory, after which a rollout gives up. */
export const MAX_LOST_GROUPS = 8

/** Token ids of a prompt; throws `UnknownText` for text the vocabulary cannot express. */
export const promptTokens = (prompt: Prompt, tokenizer: Tokenizer): Uint32Array => {
  if (typeof prompt === "string") return encodePrompt(tokenizer, prompt)
  if (prompt instanceof Uint32Array) return prompt
  if (!isConversation(prompt)) return tokenizer.render(prompt)
  return tokenizer.render(prompt.messages, renderOptions(prompt))
}

/** The ids that end a turn. */
const stopTokensOf = (tokenizer: Tokenizer): ReadonlyArray<number> => tokenizer.stopTokens ?? [tokenizer.endOfText]

/**
 * The tokens of an observation, after the turn `turn`. Of messages the template's first token is told apart where it ends
 * a turn that was cut off: nobody but the template said it.
 */
const observationPieces = (
  observation: string | Uint32Array | ReadonlyArray<Message>,
  prompt: Prompt,
  turn: Turn,
  tokenizer: Tokenizer
): ReadonlyArray<Piece> => {
  if (typeof observation === "string") {
    return [{ tokens: tokenizer.encode(observation, { continues: true }), producer: Producer.Environment }]
  }
  if (observation instanceof Uint32Array) return [{ tokens: observation, producer: Producer.Environment }]
  if (tokenizer.continuation === undefined) {
    throw new TypeError(
      `the tokenizer ${tokenizer.name} has no chat template: observe text or token ids, or use a chat model's tokenizer`
    )
  }
  const stopTokens = stopTokensOf(tokenizer)
  const ended = stopTokens.includes(turn.tokens.at(-1) ?? -1)
  const told = typeof prompt === "object" && isConversation(prompt) ? renderOptions(prompt) : {}
  const tokens = tokenizer.continuation(observation, { ended, ...told })
  const closing = ended || !stopTokens.includes(tokens[0] ?? -1) ? 0 : 1
  return [
    { tokens: tokens.subarray(0, closing), producer: Producer.Template },
    { tokens: tokens.subarray(closing), producer: Producer.Environment }
  ]
}

/** The tokens of an episode so far, in pieces. */
interface Piece {
  readonly tokens: Uint32Array
  readonly producer: Producer
  readonly logprobs?: Float32Array
}

const assemble = (pieces: ReadonlyArray<Piece>) => {
  const length = pieces.reduce((sum, piece) => sum + piece.tokens.length, 0)
  const tokens = new Uint32Array(length)
  const producer = new Uint8Array(length)
  const logprobs = new Float32Array(length)
  let at = 0
  for (const piece of pieces) {
    tokens.set(piece.tokens, at)
    producer.fill(piece.producer, at, at + piece.tokens.length)
    if (piece.logprobs !== undefined) logprobs.set(piece.logprobs, at)
    at += piece.tokens.length
  }
  return { tokens, producer, logprobs }
}

/** Rolls out one task. Succeeds even when every trajectory was lost; fails only with the sampler. */
export const group = Effect.fnUntraced(function* <Data>(
  options: RolloutOptions<Data>,
  { cursor, task }: Drawn<Data>
): Effect.fn.Return<Group<Data>, EngineError, Sampler> {
  const { environment, tokenizer, seed, size = 8, retries = 1, deadline = 60_000, contextLength = Infinity } = options
  const { maxTurns = 1 } = environment
  const sampler = yield* Sampler
  const stream = `${task.id}#${cursor}`

  const lost = (cause: unknown) => new EnvironmentError({ environment: environment.name, taskId: task.id, cause })
  /** An environment is the user's code: whatever it does wrong, and for however long, costs its own episode only. */
  const guarded = <A, R>(effect: Effect.Effect<A, EnvironmentError, R>, awaited: string) =>
    effect.pipe(
      Effect.catchDefect((defect) => Effect.fail(lost(defect))),
      Effect.timeoutOrElse({
        duration: deadline,
        orElse: () => Effect.fail(lost(new Error(`${awaited} took more than ${deadline} ms; raise Rollout's deadline`)))
      })
    )

  const sample = Effect.fnUntraced(function* (
    prompt: Uint32Array,
    key: SampleRequest["key"],
    count: number
  ): Effect.fn.Return<ReadonlyArray<Completion>, EngineError> {
    const room = contextLength - prompt.length
    const maxTokens = Math.min(environment.maxTokens, room)
    const completions = yield* sampler.sample({
      ...options.sampling,
      ...(options.forTraining ? { forTraining: true } : {}),
      prompt,
      count,
      key,
      maxTokens,
      stopTokens: stopTokensOf(tokenizer),
      ...(environment.stop === undefined ? {} : { stop: environment.stop })
    })
    if (completions.length !== count) {
      const detail = `asked for ${count} completions of task ${task.id}, got ${completions.length}`
      return yield* new EngineError({ operation: "sample", reason: { _tag: "Shape", detail } })
    }
    // The limit that was hit is the model's, not the environment's.
    const short = room < environment.maxTokens
    return completions.map((completion) =>
      short && completion.stopReason === "length" ? { ...completion, stopReason: "context" } : completion
    )
  })

  const prompt = yield* Effect.result(
    Effect.try({
      try: () => {
        const asked = environment.prompt?.(task) ?? task.prompt
        return { asked, tokens: promptTokens(asked, tokenizer) }
      },
      catch: lost
    }).pipe(
      Effect.filterOrFail(
        ({ tokens: { length } }) => length > 0 && length < contextLength,
        ({ tokens: { length } }) =>
          lost(new Error(`the prompt has ${length} tokens; it needs at least one and less than ${contextLength}`))
      )
    )
  )
  const gone = (failure: EnvironmentError): Group<Data> => ({
    task,
    cursor,
    trajectories: [],
    failures: Array.from({ length: size }, () => failure)
  })
  if (Result.isFailure(prompt)) return gone(prompt.failure)
  const { asked } = prompt.success
  const given: Piece = { tokens: prompt.success.tokens, producer: Producer.Template }

  const sampling = performance.now()
  const firsts = yield* sample(given.tokens, { seed, stream, index: 0 }, size)
  const firstSeconds = (performance.now() - sampling) / 1000

  const episode = Effect.fnUntraced(function* (first: Completion, index: number) {
    const pieces: Array<Piece> = [given]
    const turns: Array<string> = []
    const seconds = { sample: firstSeconds, environment: 0 }
    let metrics: Readonly<Record<string, number>> = {}
    let info: Readonly<Record<string, unknown>> = {}
    let stopReason: StopReason | undefined

    const timed = <A, E, R>(phase: "sample" | "environment", effect: Effect.Effect<A, E, R>) =>
      Effect.suspend(() => {
        const start = performance.now()
        return Effect.tap(effect, () =>
          Effect.sync(() => {
            seconds[phase] += (performance.now() - start) / 1000
          })
        )
      })

    const running = yield* timed("environment", guarded(environment.start(task), "start"))
    let completion = first
    while (stopReason === undefined) {
      const { tokens, logprobs } = completion
      const turn: Turn = { text: tokenizer.decode(tokens), tokens, stopReason: completion.stopReason }
      pieces.push({ tokens, producer: Producer.Policy, logprobs })
      turns.push(turn.text)
      const step: Step = yield* timed("environment", guarded(running.step(turn), `turn ${turns.length}`))
      if (step.done) {
        info = step.info ?? {}
        metrics = step.metrics ?? {}
        stopReason = turn.stopReason === "stop" ? (step.reason ?? "stop") : turn.stopReason
      } else if (turn.stopReason === "context") stopReason = "context"
      else if (turns.length >= maxTurns) stopReason = "length"
      else {
        const { observation } = step
        const seen = yield* Effect.try({
          try: () => observationPieces(observation, asked, turn, tokenizer),
          catch: lost
        })
        pieces.push(...seen)
        const context = assemble(pieces).tokens
        if (context.length >= contextLength) {
          // The observation was never seen by the policy, and does not fit: the episode ends before it.
          pieces.splice(-seen.length)
          stopReason = "context"
        } else {
          // A turn has a stream of its own: numbers are drawn by position within a completion, and would repeat.
          const key = { seed, stream: `${stream}/${turns.length}`, index }
          const [next] = yield* timed("sample", sample(context, key, 1))
          completion = next!
        }
      }
    }
    const { tokens, producer, logprobs } = assemble(pieces)
    const promptLength = given.tokens.length
    const trajectory: Trajectory = {
      taskId: task.id,
      index,
      tokens,
      producer,
      logprobs,
      promptLength,
      stopReason,
      text: tokenizer.decode(tokens.subarray(promptLength)),
      turns,
      info,
      metrics,
      seconds,
      policyVersion: first.versions[0] ?? 0
    }
    return trajectory
  }, Effect.scoped)

  const results = yield* Effect.forEach(
    firsts,
    (first, index) =>
      episode(first, index).pipe(
        Effect.retry({ times: retries, while: (error) => error._tag === "EnvironmentError" }),
        Effect.map((trajectory) => ({ trajectory })),
        Effect.catchTag("EnvironmentError", (failure) => Effect.succeed({ failure }))
      ),
    { concurrency: "unbounded" }
  )
  const trajectories: Array<Trajectory> = []
  const failures: Array<EnvironmentError> = []
  for (const result of results) {
    if ("trajectory" in result) trajectories.push(result.trajectory)
    else failures.push(result.failure)
  }
  return { task, cursor, trajectories, ...(failures.length === 0 ? {} : { failures }) }
})

/**
 * The stage. At most `concurrency` groups are in flight; interruption ends them and the sampler's work for them.
 *
 * ```ts
 * Task.stream(tasks, { seed: 1 }).pipe(
 *   Rollout.groups({ environment: Environment.singleTurn({ maxTokens: 64 }), tokenizer, size: 8, seed: 1 })
 * )
 * ```
 */
export const groups =
  <Data>(options: RolloutOptions<Data>) =>
  <D extends Data, E, R>(
    draws: Stream.Stream<Drawn<D>, E, R>
  ): Stream.Stream<Group<D>, E | EngineError | EnvironmentError, R | Sampler> =>
    Stream.suspend(() => {
      let lostInARow = 0
      return draws.pipe(
        Stream.mapEffect((drawn) => group<D>(options, drawn), { concurrency: options.concurrency ?? 16 }),
        Stream.mapEffect((group): Effect.Effect<Group<D>, EnvironmentError> => {
          lostInARow = group.trajectories.length === 0 ? lostInARow + 1 : 0
          const [failure] = group.failures ?? []
          return lostInARow >= MAX_LOST_GROUPS && failure !== undefined ? Effect.fail(failure) : Effect.succeed(group)
        })
      )
    })
