/** Applies a reward to the trajectories of a group. */
import * as Effect from "effect/Effect"
import type { Task } from "../../data/Task.ts"
import type { Trajectory } from "../../rollout/Trajectory.ts"
import * as Verifier from "../Verifier.ts"
import { type VerifierLoadError, VerifierPool } from "../VerifierPool.ts"
import type { GroupFunction, Term } from "./term.ts"

export interface Context {
  readonly task: Task<any>
  readonly trajectories: ReadonlyArray<Trajectory>
  readonly deadline: number
  readonly retries: number
}

interface Leaf {
  readonly name: string
  readonly outcome: Verifier.Outcome
  readonly seconds: number
  readonly attempts: number
}

/** One trajectory's value of one term, before the term's own weight. */
export interface Evaluated {
  readonly value: number | undefined
  readonly tokens: Float64Array | undefined
  readonly leaves: ReadonlyArray<Leaf>
}

export const evaluate = (
  term: Term<any, any>,
  name: string,
  context: Context
): Effect.Effect<ReadonlyArray<Evaluated>, VerifierLoadError, any> => {
  const { judge } = term
  switch (judge._tag) {
    case "Single":
      return Effect.forEach(
        context.trajectories,
        (trajectory) => Effect.map(judgeOne(judge.verifier, name, trajectory, context), fromLeaf),
        { concurrency: "unbounded" }
      )
    case "Group":
      return Effect.map(judgeGroup(judge.verifier, name, context), (leaves) => leaves.map(fromLeaf))
    case "All":
      return Effect.map(
        Effect.forEach(judge.terms, ([own, part]) => evaluate(part, name === "" ? own : `${name}/${own}`, context), {
          concurrency: "unbounded"
        }),
        (columns) =>
          context.trajectories.map((_, row) =>
            combine(
              judge.terms,
              columns.map((column) => column[row]!)
            )
          )
      )
  }
}

const fromLeaf = (leaf: Leaf): Evaluated => ({
  value: leaf.outcome._tag === "Scored" ? leaf.outcome.score : undefined,
  tokens:
    leaf.outcome._tag === "Scored" && leaf.outcome.tokenScores !== undefined
      ? Float64Array.from(leaf.outcome.tokenScores)
      : undefined,
  leaves: [leaf]
})

/** Combines one trajectory's parts: the product of the gates times the weighted sum. */
const combine = (
  terms: ReadonlyArray<readonly [string, Term<any, any>]>,
  parts: ReadonlyArray<Evaluated>
): Evaluated => {
  const leaves = parts.flatMap((part) => part.leaves)
  const of = (role: Term["role"]) =>
    terms.flatMap(([, term], index) => (term.role === role ? [{ weight: term.weight, ...parts[index]! }] : []))
  const gates = of("gate")
  const weighted = of("weight")
  if (gates.some((gate) => gate.value === 0)) return { value: 0, tokens: zeros(weighted), leaves }
  let factor = 1
  for (const gate of gates) {
    if (gate.value === undefined) return { value: undefined, tokens: undefined, leaves }
    factor *= gate.value
  }
  if (weighted.length === 0) return { value: factor, tokens: undefined, leaves }
  let sum = 0
  let tokens: Float64Array | undefined = zeros(weighted)
  for (const part of weighted) {
    if (part.value === undefined) return { value: undefined, tokens: undefined, leaves }
    sum += part.weight * part.value
    if (tokens !== undefined)
      for (let t = 0; t < tokens.length; t++) tokens[t]! += factor * part.weight * part.tokens![t]!
  }
  return { value: factor * sum, tokens, leaves }
}

/** Makes an array for token rewards, if every weighted part has token scores. */
const zeros = (weighted: ReadonlyArray<Evaluated>): Float64Array | undefined =>
  weighted.length > 0 && weighted.every((part) => part.tokens !== undefined)
    ? new Float64Array(weighted[0]!.tokens!.length)
    : undefined

interface Attempt<A> {
  readonly value: A
  /** Seconds of the last attempt. */
  readonly seconds: number
  readonly attempts: number
}

/** Judges again until `final` accepts the value, at most `retries` times. */
const untilFinal = <A, E, R>(
  once: Effect.Effect<A, E, R>,
  retries: number,
  final: (value: A) => boolean
): Effect.Effect<Attempt<A>, E, R> =>
  Effect.gen(function* () {
    for (let attempts = 1; ; attempts++) {
      const start = performance.now()
      const value = yield* once
      const seconds = (performance.now() - start) / 1000
      if (attempts > retries || final(value)) return { value, seconds, attempts }
    }
  })

const judgeOne = (
  verifier: Verifier.VerifierFunction<any, any> | Verifier.WorkerVerifier,
  name: string,
  trajectory: Trajectory,
  context: Context
): Effect.Effect<Leaf, VerifierLoadError, any> => {
  const input = { task: context.task, trajectory }
  const once =
    typeof verifier === "function"
      ? Verifier.run(verifier, input, verifier.deadline ?? context.deadline)
      : VerifierPool.use((pool) => pool.verify(verifier, input))
  return untilFinal(
    once,
    context.retries,
    // The pool has already retried a crashed call.
    (outcome) => outcome._tag === "Scored" || outcome.kind === "crash"
  ).pipe(Effect.map(({ value, ...cost }) => ({ name, outcome: value, ...cost })))
}

const judgeGroup = (
  verifier: GroupFunction<any, any>,
  name: string,
  context: Context
): Effect.Effect<ReadonlyArray<Leaf>, never, any> => {
  const every = (outcome: Verifier.Outcome) => context.trajectories.map(() => outcome)
  const once = Verifier.invoke(
    (signal) => verifier({ task: context.task, trajectories: context.trajectories, signal }),
    context.deadline,
    (verdicts): ReadonlyArray<Verifier.Outcome> =>
      Array.isArray(verdicts) && verdicts.length === context.trajectories.length
        ? context.trajectories.map((trajectory, row) => Verifier.outcome(verdicts[row], trajectory))
        : every(Verifier.unscorable(`no verdict for each of the group's ${context.trajectories.length}`, "verdict")),
    (reason, kind) => every(Verifier.unscorable(reason, kind))
  )
  return untilFinal(once, context.retries, (outcomes) => outcomes.every(({ _tag }) => _tag === "Scored")).pipe(
    Effect.map(({ value, ...cost }) => value.map((outcome) => ({ name, outcome, ...cost })))
  )
}
