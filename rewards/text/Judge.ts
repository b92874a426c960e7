/**
 * A language model as a verifier: any `LanguageModel` of effect/ai grades a completion by a rubric. Use it for what
 * cannot be checked, beside a verifier that can, and look at what it rewards: a judge is a model, and a policy is
 * paid to find what fools it. The guard here keeps the judged text from leaving its place and from speaking for the
 * judge; it cannot keep the judge from believing it.
 */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Semaphore from "effect/Semaphore"
import * as AiError from "effect/ai/AiError"
import * as LanguageModel from "effect/ai/LanguageModel"
import { createHash, randomBytes } from "node:crypto"
import { OptionError } from "../../src/OptionError.ts"
import { isConversation } from "../../src/text/Conversation.ts"
import type { Task } from "../../src/data/Task.ts"
import { policyText, type Trajectory } from "../../src/rollout/Trajectory.ts"
import * as Verifier from "../../src/score/Verifier.ts"
import { canonical } from "../internal/canonicalJson.ts"
import { instructions, neutral, question, type Secrets, type Section } from "./internal/judgePrompt.ts"

/** One criterion and its share of the score. */
export interface Criterion {
  readonly description: string
  /** Relative to the others', above 0. Default 1. */
  readonly weight?: number
}

/** Criteria by name (letters, digits and underscores), each a description or a {@link Criterion}. */
export type Rubric = Readonly<Record<string, string | Criterion>>

export interface JudgeOptions<in Data = any> {
  readonly rubric: Rubric | ((task: Task<Data>) => Rubric)
  /** Each criterion gets a whole number from 0 to this. Default 4. */
  readonly scale?: number
  /** The question that the judge sees. Default: the task's prompt. */
  readonly question?: (task: Task<Data>) => string
  /** A right answer, for the judge to compare with. Default none. */
  readonly reference?: (task: Task<Data>) => string | undefined
  /** The text that is judged. Default: what the policy wrote, all turns. */
  readonly text?: (trajectory: Trajectory) => string
  /** A longer text scores 0 unread. Characters. Default 32,768. */
  readonly maxCharacters?: number
  /**
   * Verdicts that are asked for; of each criterion the median counts. More than half of them must arrive. Default 1.
   */
  readonly votes?: number
  /** Milliseconds of one call. Default 60,000: give `Reward.score` a longer deadline than all attempts take. */
  readonly timeout?: number
  /** How often a call that failed, timed out or gave no verdict is made again. Default 2. */
  readonly retries?: number
  /** Calls at the same time. Default 8. */
  readonly concurrency?: number
  /** Verdicts that are remembered, by the content that was judged. Default 10,000; 0 for none. */
  readonly cache?: number
}

/**
 * Scores `sum of weight * mark / scale, over the sum of weights`, with each criterion's `mark / scale` as a metric.
 * Provider failures, timeouts and answers that are no verdict are unscorable after the retries; so is a text that the
 * provider refuses to read, which a policy may learn to write: watch the counts. Needs a `LanguageModel`.
 *
 * @example
 * ```ts
 * const helpful = judge({
 *   rubric: { correct: { description: "Agrees with the reference.", weight: 3 }, brief: "Says nothing that was not asked." },
 *   reference: (task: Task.Task<{ answer: string }>) => task.data.answer,
 *   votes: 3
 * })
 * const reward = Reward.all({ format: Reward.gate(formatTags(["answer"])), helpful: Reward.weight(0.5, helpful) })
 * ```
 */
export const judge = <Data = any>(
  options: JudgeOptions<Data>
): Verifier.VerifierFunction<Data, LanguageModel.LanguageModel> => {
  const {
    scale = 4,
    maxCharacters = 32_768,
    votes = 1,
    timeout = 60_000,
    retries = 2,
    concurrency = 8,
    cache = 10_000
  } = options
  for (const [name, value, least] of [
    ["scale", scale, 1],
    ["maxCharacters", maxCharacters, 1],
    ["votes", votes, 1],
    ["timeout", timeout, 1],
    ["retries", retries, 0],
    ["concurrency", concurrency, 1],
    ["cache", cache, 0]
  ] as const) {
    if (!(Number.isInteger(value) && value >= least))
      throw new OptionError({
        module: "judge",
        option: name,
        value: value,
        expected: `a whole number from ${least}`,
        remedy: "Leave it out for the default"
      })
  }
  if (scale > 100)
    throw new OptionError({
      module: "judge",
      option: "scale",
      value: scale,
      expected: "a whole number from 1 to 100",
      remedy: "Use a scale that a model can tell apart, such as 4"
    })
  const fixed = typeof options.rubric === "function" ? undefined : parseRubric(options.rubric)
  const permits = Semaphore.makeUnsafe(concurrency)
  const memory = makeMemory(cache)

  return Verifier.withDeadline(QUEUE, ({ task, trajectory }) => {
    const text = (options.text ?? policyText)(trajectory)
    if (text.trim() === "") return { score: 0, reason: "empty" }
    if (text.length > maxCharacters) return { score: 0, reason: `longer than ${maxCharacters} characters` }
    const criteria = fixed ?? parseRubric((options.rubric as (task: Task<Data>) => Rubric)(task))
    const reference = options.reference?.(task)
    const sections: ReadonlyArray<Section> = [
      { title: "QUESTION", text: options.question?.(task) ?? promptText(task) },
      ...(reference === undefined ? [] : [{ title: "REFERENCE", text: reference }]),
      { title: "ANSWER", text }
    ]
    const once = permits
      .withPermits(1)(Effect.timeout(ask(criteria, scale, sections), timeout))
      .pipe(Effect.retry({ times: retries, schedule: backOff, while: isWorthRetrying }))
    const all = Effect.forEach(Array.from({ length: votes }), () => Effect.exit(once), {
      concurrency: "unbounded"
    }).pipe(
      Effect.flatMap((exits) => {
        const verdicts = exits.filter(Exit.isSuccess).map(({ value }) => value)
        const failed = exits.find(Exit.isFailure)
        // more than half of the votes, else the median is chosen by whoever makes calls fail
        return failed === undefined || 2 * verdicts.length > votes
          ? Effect.succeed(combine(criteria, scale, verdicts))
          : Effect.failCause(failed.cause)
      }),
      Effect.catch((fault) => Effect.succeed(Verifier.unscorable(`the judge gave no verdict: ${describe(fault)}`)))
    )
    const key = createHash("sha256")
      .update(canonical([criteria, scale, votes, sections]))
      .digest("base64")
    return Effect.flatMap(LanguageModel.LanguageModel, (model) => memory(model, key, all))
  })
}

/** Milliseconds to wait for a turn, and for the calls that `timeout` and `retries` allow. */
const QUEUE = 600_000

interface NamedCriterion {
  readonly name: string
  readonly description: string
  readonly weight: number
}

const parseRubric = (rubric: Rubric): ReadonlyArray<NamedCriterion> => {
  const criteria = Object.entries(rubric).map(([name, criterion]) => {
    const { description, weight = 1 } = typeof criterion === "string" ? { description: criterion } : criterion
    if (!/^[a-z]\w{0,63}$/i.test(name))
      throw new OptionError({
        module: "judge",
        option: "criterion",
        value: name,
        expected: "a letter, then letters and digits",
        remedy: "Rename it"
      })
    if (!(Number.isFinite(weight) && weight > 0))
      throw new OptionError({
        module: "judge",
        option: `rubric.${name}.weight`,
        value: weight,
        expected: "a finite number above 0",
        remedy: "Leave the criterion out if it must not count"
      })
    return { name, description, weight }
  })
  if (criteria.length === 0)
    throw new OptionError({
      module: "judge",
      option: "rubric",
      value: rubric,
      expected: "at least one criterion",
      remedy: "Name one with its description"
    })
  return criteria
}

interface Verdict {
  readonly reasoning: string
  readonly scores: Readonly<Record<string, number>>
}

/** The answer is none to what was asked, though it has its form. */
class EchoError extends Error {
  override readonly message = "the verdict does not say the canary back: it was not made from these instructions"
}

const ask = Effect.fnUntraced(function* (
  criteria: ReadonlyArray<NamedCriterion>,
  scale: number,
  sections: ReadonlyArray<Section>
) {
  const secrets = makeSecrets()
  const mark = Schema.Literals(Array.from({ length: scale + 1 }, (_, value) => value))
  const schema = Schema.Struct({
    canary: Schema.String,
    reasoning: Schema.String,
    scores: Schema.Struct(Object.fromEntries(criteria.map(({ name }) => [name, mark])))
  })
  const { value } = yield* LanguageModel.generateObject({
    objectName: "verdict",
    schema,
    prompt: [
      { role: "system", content: instructions(criteria, scale, secrets) },
      { role: "user", content: question(sections, secrets) }
    ]
  })
  if (value.canary !== secrets.canary) return yield* Effect.fail(new EchoError())
  return { reasoning: value.reasoning, scores: value.scores } satisfies Verdict
})

const makeSecrets = (): Secrets => {
  const bytes = randomBytes(40).toString("hex")
  return { boundary: bytes.slice(0, 32), canary: bytes.slice(32, 64), mark: bytes.slice(64, 72) }
}

const backOff = Schedule.exponential(Duration.millis(250))

const isWorthRetrying = (fault: unknown): boolean =>
  !AiError.isAiError(fault) || fault.isRetryable || malformed.has(fault.reason._tag)
const malformed = new Set<string>(["StructuredOutputError", "InvalidOutputError"])

const combine = (
  criteria: ReadonlyArray<NamedCriterion>,
  scale: number,
  verdicts: ReadonlyArray<Verdict>
): Verifier.Verdict => {
  const marks = criteria.map(({ name, weight }) => ({
    name,
    weight,
    share: median(verdicts.map(({ scores }) => scores[name]!)) / scale
  }))
  const weights = marks.reduce((sum, { weight }) => sum + weight, 0)
  const score = marks.reduce((sum, { weight, share }) => sum + weight * share, 0) / weights
  const found = marks.map(({ name, share }) => `${name} ${share * scale}/${scale}`).join(", ")
  return {
    score,
    reason: `${found}: ${neutral(verdicts[0]!.reasoning)}`.slice(0, 400),
    metrics: Object.fromEntries(marks.map(({ name, share }) => [name, share]))
  }
}

const median = (values: ReadonlyArray<number>): number => {
  const sorted = values.toSorted((a, b) => a - b)
  return (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2
}

const describe = (fault: unknown): string =>
  neutral(fault instanceof Error ? fault.message : String(fault)).slice(0, 300)

const promptText = ({ id, prompt }: Task<any>): string => {
  if (typeof prompt === "string") return prompt
  if (prompt instanceof Uint32Array)
    throw new TypeError(`the prompt of task ${id} is tokens: give judge a \`question\` function`)
  const messages = isConversation(prompt) ? prompt.messages : prompt
  return messages
    .map(({ role, content, tool_calls }) =>
      [`${role}: ${content ?? ""}`, ...(tool_calls ?? []).map((call) => JSON.stringify(call.function))].join("\n")
    )
    .join("\n")
}

type Run = Effect.Effect<Verifier.Verdict, never, LanguageModel.LanguageModel>

/**
 * Verdicts by model and content; a group often holds the same completion more than once, which is then asked about
 * once. What is unscorable is not remembered.
 */
const makeMemory = (capacity: number) => {
  const models = new WeakMap<object, Map<string, Verifier.Verdict>>()
  const running = new WeakMap<object, Map<string, Deferred.Deferred<Verifier.Verdict | undefined>>>()
  const get = (model: object, key: string, run: Run): Run =>
    Effect.suspend((): Run => {
      const kept = ofModel(models, model)
      const pending = ofModel(running, model)
      const known = kept.get(key)
      if (known !== undefined) return Effect.succeed(known)
      const other = pending.get(key)
      // whoever was asking was interrupted: ask instead
      if (other !== undefined) {
        return Effect.flatMap(Deferred.await(other), (verdict) =>
          verdict === undefined ? get(model, key, run) : Effect.succeed(verdict)
        )
      }
      const mine = Deferred.makeUnsafe<Verifier.Verdict | undefined>()
      pending.set(key, mine)
      return Effect.onExit(run, (exit) => {
        pending.delete(key)
        const verdict = Exit.isSuccess(exit) ? exit.value : undefined
        if (typeof verdict === "object" && !("_tag" in verdict)) {
          kept.set(key, verdict)
          if (kept.size > capacity) kept.delete(kept.keys().next().value!)
        }
        return Deferred.succeed(mine, verdict)
      })
    })
  return (model: object, key: string, run: Run): Run => (capacity === 0 ? run : get(model, key, run))
}

const ofModel = <A>(maps: WeakMap<object, Map<string, A>>, model: object): Map<string, A> => {
  let found = maps.get(model)
  if (found === undefined) maps.set(model, (found = new Map()))
  return found
}
