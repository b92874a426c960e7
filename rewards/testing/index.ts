/**
 * A test kit for verifiers. A policy is an optimiser that finds every hole of its reward: this finds the common ones
 * first. From a few right and wrong completions it makes some hundred mutants (empty, truncated, repeated, format only,
 * with instructions to the judge, huge, in look-alike characters, with the answer hidden or all candidates listed, one
 * off), and reports what the verifier wrongly accepts, wrongly rejects, or has no verdict on.
 *
 * ```ts
 * import { assertSound, checkVerifier } from "quintain/rewards/testing"
 *
 * const task = { id: "sum", prompt: "12+7=?", data: { answer: 19 } }
 * const report = await checkVerifier(verifier, { task, gold: ["19", "#### 19"], wrong: ["20", "#### 91"] })
 * assertSound(report)   // throws UnsoundVerifier, whose message lists every hole
 * ```
 */
import * as Effect from "effect/Effect"
import { isDeepStrictEqual } from "node:util"
import { OptionError } from "../../src/OptionError.ts"
import type { Task } from "../../src/data/Task.ts"
import { ofText, type Trajectory } from "../../src/rollout/Trajectory.ts"
import * as Verifier from "../../src/score/Verifier.ts"
import * as VerifierPool from "../../src/score/VerifierPool.ts"
import * as WorkerPool from "../../src/score/WorkerPool.ts"
import { measureCost, type Cost } from "./verifierCost.ts"
import { mutantsOf, mutations as standard, type Expectation, type Mutation } from "./mutations.ts"

export type { Cost } from "./verifierCost.ts"
export { mutations, type Expectation, type Mutation, type MutationInput } from "./mutations.ts"

/** One task, with completions of which it is known what the verifier should say. At least one of each. */
export interface Example<Data = unknown> {
  readonly task: Task<Data>
  readonly gold: ReadonlyArray<string>
  readonly wrong: ReadonlyArray<string>
}

export interface CheckOptions<Data = any> {
  /** The expectation for a mutation by name, in place of its own `expect`; see {@link mutations}. */
  readonly expect?: Readonly<Record<string, Expectation>>
  /** Default: the standard {@link mutations}. */
  readonly mutations?: ReadonlyArray<Mutation>
  /** Fixes where a mutation cuts and inserts. Default 0. */
  readonly seed?: number
  /** From this score on a completion counts as accepted. Default: the top of `range`. */
  readonly accept?: number
  /** Lowest and highest score that the verifier may give. Default [0, 1]. */
  readonly range?: readonly [number, number]
  /** Verdicts at the same time. Default 4. */
  readonly concurrency?: number
  /** Milliseconds of one verdict; one that takes longer is an error. Default 60,000. */
  readonly deadline?: number
  /** Whether time is measured on completions of up to a megabyte. Default true. */
  readonly cost?: boolean
  /**
   * The trajectory in which `text` was written, for a verifier that looks at more than the text; `undefined` for a text
   * that this policy cannot write. Default: one policy token, with the text, ended by itself.
   */
  readonly trajectory?: (text: string, task: Task<Data>, index: number) => Trajectory | undefined
}

/** One mutant that was not judged as it should be. */
export interface Finding {
  readonly mutation: string
  readonly taskId: string
  readonly text: string
  /** The verifier's answer, or its failure. */
  readonly detail: string
}

export interface Report {
  /** Mutants; each is judged twice, in opposite orders. */
  readonly judged: number
  readonly acceptedWrongly: ReadonlyArray<Finding>
  readonly rejectedWrongly: ReadonlyArray<Finding>
  /** Whatever a policy writes has a score: unscorable is for infrastructure. */
  readonly unscorable: ReadonlyArray<Finding>
  /** It threw, took longer than the deadline, gave no verdict or one out of range, judged the same text differently, or changed its input. */
  readonly errors: ReadonlyArray<Finding>
  /** By mutation: how many mutants were accepted, and the highest score of one. */
  readonly mutations: Readonly<
    Record<
      string,
      { readonly expect: Expectation; readonly judged: number; readonly accepted: number; readonly highest: number }
    >
  >
  readonly cost: Cost | undefined
}

/** A verifier was found unsound; the message lists the findings. */
export class UnsoundVerifier extends Error {
  override readonly name = "UnsoundVerifier"
  readonly report: Report
  constructor(report: Report) {
    super(render(report))
    this.report = report
  }
}

type Examples<Data> = Example<Data> | ReadonlyArray<Example<Data>>

/**
 * Mutates the examples and judges every mutant. What must be rejected and what may go either way is declared by each
 * mutation; where the verifier's purpose differs (a schema takes any number), say so in `expect`. A gold completion whose
 * half is also right makes false findings: choose golds that need all of their text. A function runs in this thread, where
 * nothing ends one that never yields: check what may hang, such as a backtracking pattern, as a `Verifier.worker`.
 *
 * Throws a TypeError for examples without gold or wrong completions, and for an unknown name in `expect`; fails with
 * VerifierLoadError when a pooled verifier cannot be loaded.
 *
 * @example
 * ```ts
 * const example = { task, gold: ['{"a":1}'], wrong: ['{"b":1}'] }
 * const report = yield* check(jsonSchema(Schema.Struct({ a: Schema.Int })), example, { expect: { "off-by-one": "either" } })
 * ```
 */
export function check<Data, R = never>(
  verifier: Verifier.VerifierFunction<Data, R>,
  examples: Examples<Data>,
  options?: CheckOptions<Data>
): Effect.Effect<Report, never, R>
export function check<Data>(
  verifier: Verifier.WorkerVerifier<Data>,
  examples: Examples<Data>,
  options?: CheckOptions<Data>
): Effect.Effect<Report, VerifierPool.VerifierLoadError, VerifierPool.VerifierPool>
export function check(
  verifier: Verifier.VerifierFunction<any, any> | Verifier.WorkerVerifier,
  examples: Examples<any>,
  options: CheckOptions = {}
): Effect.Effect<Report, VerifierPool.VerifierLoadError, any> {
  return Effect.gen(function* () {
    const all = "task" in examples ? [examples] : examples
    const use = chosen(all, options)
    const [low, high] = options.range ?? [0, 1]
    const accept = options.accept ?? high
    const deadline = options.deadline ?? 60_000
    const trajectoryOf = options.trajectory ?? ((text, task, index) => ofText(text, task, { index }))
    const errors: Array<Finding> = []

    const judge = Effect.fnUntraced(function* (task: Task<any>, trajectory: Trajectory) {
      if (typeof verifier !== "function") {
        const pooled = { ...verifier, deadline }
        return yield* VerifierPool.VerifierPool.use((pool) => pool.verify(pooled, { task, trajectory }))
      }
      return yield* Verifier.run(verifier, { task, trajectory }, deadline)
    })

    let cost: Cost | undefined
    if (options.cost ?? true) {
      const { gold, task } = all[0]!
      cost = yield* measureCost(gold[0]!, (text) => {
        const trajectory = trajectoryOf(text, task, 0)
        return trajectory === undefined ? Effect.void : judge(task, trajectory)
      })
    }

    const cases = all.flatMap(({ gold, task, wrong }, example) => {
      const others = all.flatMap((other) => (other.task.id === task.id ? [] : other.gold))
      const label = `${options.seed ?? 0}/${task.id}`
      // one that takes minutes for a megabyte is told by its cost, not waited for
      const able = cost?.stopped === undefined ? use : use.filter(({ name }) => !name.startsWith("huge"))
      return mutantsOf(able, gold, wrong, others, label).flatMap((mutant, row) => {
        const written = mutant.turns === undefined ? trajectoryOf : inTurns(mutant.turns)
        // whoever makes trajectories of their own has no environment that speaks between
        const able = mutant.turns === undefined || options.trajectory === undefined
        const trajectory = able ? written(mutant.text, task, row) : undefined
        return trajectory === undefined ? [] : [{ mutant, task, trajectory, example }]
      })
    })
    const findingOf = ({ mutant, task }: (typeof cases)[number], detail: string): Finding => ({
      mutation: mutant.mutation,
      taskId: task.id,
      text: mutant.text,
      detail
    })
    const concurrency = options.concurrency ?? 4
    const first = yield* Effect.forEach(
      cases,
      Effect.fnUntraced(function* (one) {
        const before = typeof verifier === "function" ? copy([one.task, one.trajectory]) : undefined
        const outcome = yield* judge(one.task, one.trajectory)
        if (before !== undefined && !isDeepStrictEqual(before, [one.task, one.trajectory]))
          errors.push(findingOf(one, "it changed its task or trajectory"))
        return outcome
      }),
      { concurrency }
    )
    const again = (yield* Effect.forEach(cases.toReversed(), ({ task, trajectory }) => judge(task, trajectory), {
      concurrency
    })).toReversed()

    const acceptedWrongly: Array<Finding> = []
    const rejectedWrongly: Array<Finding> = []
    const unscorable: Array<Finding> = []
    const byName: Record<string, { expect: Expectation; judged: number; accepted: number; highest: number }> = {}
    const hedges = new Map<string, { readonly of: (typeof cases)[number]; all: boolean; orders: number }>()
    for (const [row, one] of cases.entries()) {
      const outcome = first[row]!
      const { mutant } = one
      const own = (byName[mutant.mutation] ??= { expect: mutant.expect, judged: 0, accepted: 0, highest: -Infinity })
      own.judged++
      if (!isSame(outcome, again[row]!))
        errors.push(findingOf(one, `judged twice: ${describe(outcome)}, then ${describe(again[row]!)}`))
      if (outcome._tag === "Unscorable") {
        const list = outcome.kind === undefined || outcome.kind === "declared" ? unscorable : errors
        list.push(findingOf(one, describe(outcome)))
        continue
      }
      if (!(outcome.score >= low && outcome.score <= high))
        errors.push(findingOf(one, `score ${outcome.score} is out of [${low}, ${high}]`))
      const accepted = outcome.score >= accept
      own.accepted += Number(accepted)
      own.highest = Math.max(own.highest, outcome.score)
      if (mutant.expect === "accept" && !accepted) rejectedWrongly.push(findingOf(one, describe(outcome)))
      if (mutant.expect === "reject" && accepted) acceptedWrongly.push(findingOf(one, describe(outcome)))
      if (mutant.expect === "hedge") {
        const key = `${one.example}/${mutant.origin}`
        const hedge = hedges.get(key) ?? { of: one, all: true, orders: 0 }
        hedges.set(key, { ...hedge, all: hedge.all && accepted, orders: hedge.orders + 1 })
      }
    }
    for (const { all, of, orders } of hedges.values())
      if (all) acceptedWrongly.push(findingOf(of, `accepted in each of ${orders} orders of the candidates`))
    return { judged: cases.length, acceptedWrongly, rejectedWrongly, unscorable, errors, mutations: byName, cost }
  })
}

/**
 * {@link check} as a promise. A pooled verifier gets a pool of its own for the time being.
 *
 * @example
 * ```ts
 * const proof = Verifier.worker({ module: new URL("./proof.ts", import.meta.url) })
 * assertSound(await checkVerifier(proof, { task, gold: ["qed"], wrong: ["obvious"] }))
 * ```
 */
export const checkVerifier = <Data>(
  verifier: Verifier.VerifierFunction<Data> | Verifier.WorkerVerifier<Data>,
  examples: Examples<Data>,
  options: CheckOptions<Data> & { readonly pool?: WorkerPool.WorkerPoolOptions } = {}
): Promise<Report> =>
  Effect.runPromise(
    typeof verifier === "function"
      ? check(verifier, examples, options)
      : Effect.provide(check(verifier, examples, options), WorkerPool.layer(options.pool))
  )

export interface AssertOptions {
  /** Largest exponent of time over length that is let pass (1 is linear). Default: time is reported only. */
  readonly growth?: number
}

/** Throws {@link UnsoundVerifier} when the report has a finding. */
export const assertSound = (report: Report, options: AssertOptions = {}): void => {
  const { acceptedWrongly, cost, errors, rejectedWrongly, unscorable } = report
  const found = acceptedWrongly.length + rejectedWrongly.length + unscorable.length + errors.length
  const slow = cost !== undefined && (cost.growth ?? 0) > (options.growth ?? Infinity)
  if (found > 0 || slow) throw new UnsoundVerifier(report)
}

/** The report as text: a line for what was judged, then every finding with its mutation's reason. */
export const render = (report: Report): string => {
  const { acceptedWrongly, cost, errors, judged, mutations, rejectedWrongly, unscorable } = report
  const lines = [
    `${judged} mutants of ${Object.keys(mutations).length} mutations: ${acceptedWrongly.length} wrongly accepted, ` +
      `${rejectedWrongly.length} wrongly rejected, ${unscorable.length} unscorable, ${errors.length} errors`
  ]
  const reasons = new Map(standard.map(({ name, why }) => [name, why]))
  const list = (title: string, findings: ReadonlyArray<Finding>) => {
    if (findings.length > 0) lines.push("", title)
    for (const [mutation, own] of Map.groupBy(findings, (finding) => finding.mutation)) {
      const why = reasons.get(mutation)
      lines.push(`  ${mutation}${why === undefined ? "" : ` (${why})`}`)
      for (const finding of own.slice(0, 5))
        lines.push(`    ${finding.taskId}: ${excerpt(finding.text)}: ${finding.detail}`)
      if (own.length > 5) lines.push(`    and ${own.length - 5} more`)
    }
  }
  list("wrongly accepted", acceptedWrongly)
  list("wrongly rejected", rejectedWrongly)
  list("unscorable", unscorable)
  list("errors", errors)
  if (cost !== undefined) {
    const growth = cost.growth === undefined ? "too quick to tell" : `length^${cost.growth.toFixed(2)}`
    const worst = `${cost.slowest.milliseconds.toFixed(1)} ms for ${cost.slowest.characters} characters of ${JSON.stringify(cost.slowest.padding)}`
    lines.push("", `time grows as ${growth}; slowest: ${worst}${cost.stopped === undefined ? "" : `; ${cost.stopped}`}`)
  }
  return lines.join("\n")
}

const chosen = (
  examples: ReadonlyArray<Example<any>>,
  { expect = {}, mutations = standard }: CheckOptions
): ReadonlyArray<Mutation> => {
  if (examples.length === 0)
    throw new OptionError({
      module: "checkVerifier",
      option: "examples",
      value: examples,
      expected: "at least one",
      remedy: "Give a task with gold and wrong completions"
    })
  for (const { gold, task, wrong } of examples) {
    for (const [field, texts] of Object.entries({ gold, wrong }))
      if (texts.length === 0)
        throw new OptionError({
          module: "checkVerifier",
          option: `${field} of task ${task.id}`,
          value: texts,
          expected: "at least one completion",
          remedy: "Write one"
        })
  }
  const names = new Set(mutations.map(({ name }) => name))
  for (const name of Object.keys(expect))
    if (!names.has(name))
      throw new OptionError({
        module: "checkVerifier",
        option: "expect",
        value: name,
        expected: "the name of a mutation",
        remedy: `Use one of ${[...names].join(", ")}`
      })
  return mutations.map((one) => ({ ...one, expect: Object.hasOwn(expect, one.name) ? expect[one.name]! : one.expect }))
}

const inTurns =
  (turns: ReadonlyArray<string>) =>
  (text: string, task: Task<any>, index: number): Trajectory =>
    ofText(text, task, { index, turns })

/** Nothing for data that cannot be copied: then it cannot be told whether it was changed. */
const copy = (value: unknown): unknown => {
  try {
    return structuredClone(value)
  } catch {
    return undefined
  }
}

const isSame = (one: Verifier.Outcome, other: Verifier.Outcome): boolean =>
  one._tag === "Scored" ? other._tag === "Scored" && one.score === other.score : other._tag === one._tag

const describe = (outcome: Verifier.Outcome): string => {
  const said = outcome._tag === "Scored" ? `score ${outcome.score}` : `unscorable by ${outcome.kind ?? "declared"}`
  return outcome.reason === undefined ? said : `${said}: ${outcome.reason.slice(0, 200)}`
}

const excerpt = (text: string): string =>
  text.length <= 120
    ? JSON.stringify(text)
    : `${JSON.stringify(text.slice(0, 80))}...${JSON.stringify(text.slice(-30))}, ${text.length} characters`
