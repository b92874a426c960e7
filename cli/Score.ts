/** `quintain score`: a file of completions, judged by one verifier, to a file of scores from which an interrupted run continues. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { Command, Flag } from "effect/cli"
import * as fs from "node:fs"
import { readFile } from "node:fs/promises"
import * as Verifier from "../src/score/Verifier.ts"
import * as VerifierPool from "../src/score/VerifierPool.ts"
import * as WorkerPool from "../src/score/WorkerPool.ts"
import { ofText, type Trajectory } from "../src/rollout/Trajectory.ts"
import type { Task } from "../src/data/Task.ts"
import { parseCompletion } from "./internal/completions.ts"
import { lines, textOf, type Line } from "./internal/lines.ts"
import { digestOf, invalidRow, lineDigest, parseRow, rowOf, type Row } from "./internal/results.ts"
import { ScoreError } from "./internal/ScoreError.ts"
import { Tally } from "./internal/tally.ts"
import { builtins, choose } from "./internal/verifiers.ts"

export interface ScoreFileOptions {
  readonly verifier: string
  readonly options?: unknown
  readonly input: string
  readonly output: string
  readonly concurrency: number
  readonly deadline: number
  readonly retries: number
  readonly strict: boolean
  readonly overwrite: boolean
  /** Bad lines and progress. */
  readonly note: (text: string) => void
  readonly progress: (tally: Tally, from: number, done: number, total: number) => void
}

interface Pending {
  readonly line: Line
  readonly digest: string
}

const blank = (line: Line): boolean => line.bytes !== undefined && line.bytes.every((byte) => byte <= 32)

/**
 * Scores a file. What the output holds already is compared with the input, line by line, and kept; a last line that was
 * cut off is written again. Rows are written as they are known, in the order of the input.
 */
export const scoreFile = Effect.fnUntraced(function* (
  options: ScoreFileOptions
): Effect.fn.Return<Tally, ScoreError | VerifierPool.VerifierLoadError, VerifierPool.VerifierPool | Scope.Scope> {
  const { verifier, config } = yield* choose(options.verifier, options.options)
  const total = yield* attempt("the input cannot be read", () => fs.statSync(options.input).size)
  const own = digestOf(config)
  const tally = new Tally()
  const reached = { from: 0, done: 0, output: 0 }

  if (options.overwrite)
    yield* attempt("the output cannot be written", () => fs.rmSync(options.output, { force: true }))

  /** Input lines without a result; those with one are counted on the way to the first. */
  async function* pending(): AsyncGenerator<Pending> {
    const existing = fs.existsSync(options.output) ? lines(options.output) : undefined
    let resuming = existing !== undefined
    for await (const line of lines(options.input)) {
      if (blank(line)) continue
      const digest = lineDigest(own, line.bytes)
      if (resuming) {
        const next = await existing!.next()
        if (next.done !== true && next.value.whole) {
          tally.add(sameRow(options, next.value, line, digest))
          tally.resumed++
          reached.from = reached.done = line.end
          reached.output = next.value.end
          continue
        }
        resuming = false
        // what a killed run had begun to write
        fs.truncateSync(options.output, reached.output)
      }
      yield { line, digest }
    }
    if (resuming) {
      const more = await existing!.next()
      if (more.done !== true && more.value.whole)
        throw mismatch(options, more.value.number, "the input has no more lines")
    }
  }

  const judge = (task: Task, trajectory: Trajectory) => {
    const once =
      typeof verifier === "function"
        ? Verifier.run(verifier, { task, trajectory }, options.deadline)
        : VerifierPool.VerifierPool.use((pool) =>
            pool.verify({ ...verifier, deadline: options.deadline }, { task, trajectory })
          )
    return Effect.gen(function* () {
      for (let tried = 0; ; tried++) {
        const outcome = yield* once
        // the pool has already given a crashed call its second chance
        if (outcome._tag === "Scored" || outcome.kind === "crash" || tried >= options.retries) return outcome
      }
    })
  }

  const score = Effect.fnUntraced(function* ({ digest, line }: Pending) {
    const text = textOf(line)
    const parsed = "fault" in text ? text : parseCompletion(text.text, line.number)
    if ("fault" in parsed) return { line, row: invalidRow(line.number, parsed.fault, digest) }
    const outcome = yield* judge(parsed.task, ofText(parsed.text, parsed.task, { info: parsed.info }))
    return { line, row: rowOf({ line: line.number, id: parsed.id, task: parsed.task.id, digest }, outcome) }
  })

  const interrupts = yield* Effect.acquireRelease(
    Effect.sync(() => {
      const state = { came: false, note: () => {} }
      state.note = () => void (state.came = true)
      process.once("SIGINT", state.note)
      return state
    }),
    ({ note }) => Effect.sync(() => process.off("SIGINT", note))
  )
  const output = yield* Effect.acquireRelease(
    attempt("the output cannot be written", () => fs.openSync(options.output, "a")),
    (descriptor) => Effect.sync(() => fs.closeSync(descriptor))
  )
  const write = Effect.fnUntraced(function* ({ line, row }: { readonly line: Line; readonly row: Row }) {
    // an interrupt reaches the verifiers' processes too: what they then say of themselves is not a result
    if (interrupts.came) return yield* Effect.interrupt
    if (row.outcome === "invalid") {
      if (options.strict) {
        return yield* new ScoreError({
          problem: `${options.input}, line ${row.line}: ${row.reason}`,
          remedy: "Correct the line and run the same command again, or leave out --strict",
          code: 2
        })
      }
      options.note(`${options.input}, line ${row.line}: ${row.reason}`)
    }
    yield* attempt("the output cannot be written", () => fs.appendFileSync(output, `${JSON.stringify(row)}\n`))
    tally.add(row)
    reached.done = line.end
    options.progress(tally, reached.from, reached.done, total)
  })

  yield* Stream.fromAsyncIterable(pending(), (fault) =>
    fault instanceof ScoreError ? fault : failed("the files cannot be read", fault)
  ).pipe(Stream.mapEffect(score, { concurrency: options.concurrency }), Stream.runForEach(write))
  return tally
}, Effect.scoped)

const failed = (problem: string, fault: unknown): ScoreError =>
  new ScoreError({
    problem: `${problem}: ${fault instanceof Error ? fault.message : String(fault)}`,
    remedy: "Check the path; it is relative to the working directory"
  })

const attempt = <A>(problem: string, body: () => A): Effect.Effect<A, ScoreError> =>
  Effect.try({ try: body, catch: (fault) => failed(problem, fault) })

const mismatch = (options: ScoreFileOptions, line: number, why: string): ScoreError =>
  new ScoreError({
    problem: `${options.output}, line ${line}: ${why}`,
    remedy: "Name another --output, or start again with --overwrite"
  })

/** The row that an earlier run wrote for this line of the input; throws when it did not. */
const sameRow = (options: ScoreFileOptions, written: Line, line: Line, digest: string): Row => {
  const text = textOf(written)
  const row = "fault" in text ? undefined : parseRow(text.text)
  if (row === undefined) throw mismatch(options, written.number, "no result of quintain score")
  if (row.digest === digest) return row
  const sameVerifier = row.digest.split("-")[0] === digest.split("-")[0]
  throw mismatch(
    options,
    written.number,
    sameVerifier
      ? `it was written for another line ${line.number} of ${options.input}`
      : "it was written by another verifier, or with other options"
  )
}

/** JSON, or `@file` that holds it. */
const parseOptions = Effect.fnUntraced(function* (text: string) {
  const source = text.startsWith("@")
    ? yield* Effect.tryPromise({
        try: () => readFile(text.slice(1), "utf8"),
        catch: (fault) => failed("--options names a file that cannot be read", fault)
      })
    : text
  return yield* Effect.try({
    try: () => JSON.parse(source) as unknown,
    catch: (fault) =>
      new ScoreError({
        problem: `--options is not JSON: ${fault instanceof Error ? fault.message : String(fault)}`,
        remedy: `Write it like '{"strict":true}', or @file.json`
      })
  })
})

/** One line that is rewritten on a terminal, a line every ten seconds elsewhere. */
const reporter = (stream: NodeJS.WriteStream) => {
  const interval = stream.isTTY ? 100 : 10_000
  let last = performance.now()
  let width = 0
  let notes = 0
  const clear = () => {
    if (width > 0) stream.write(`\r${" ".repeat(width)}\r`)
    width = 0
  }
  return {
    note: (text: string) => {
      if (++notes > 20) return
      clear()
      stream.write(`${text}${notes === 20 ? "; later bad lines are only counted" : ""}\n`)
    },
    progress: (tally: Tally, from: number, done: number, total: number) => {
      const now = performance.now()
      if (now - last < interval) return
      last = now
      const text = tally.progress(from, done, total)
      if (!stream.isTTY) return void stream.write(`${text}\n`)
      stream.write(`\r${text.padEnd(width)}`)
      width = text.length
    },
    end: clear
  }
}

const listed = Object.entries(builtins)
  .map(([name, { description, reads }]) => `  ${name.padEnd(12)} ${description}; reads ${reads}`)
  .join("\n")

const AtLeastOne = Schema.Int.check(Schema.isGreaterThanOrEqualTo(1))
const NotNegative = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

export const score = Command.make(
  "score",
  {
    verifier: Flag.String("verifier").pipe(
      Flag.withMetavar("name | module.ts#export"),
      Flag.withDescription(
        "A verifier of the library by name, or an export of a module. With --options the export is a function from options to a verifier. Module verifiers run in worker processes."
      )
    ),
    options: Flag.String("options").pipe(
      Flag.withMetavar("json | @file"),
      Flag.withDescription("Options of the verifier."),
      Flag.optional
    ),
    input: Flag.File("input", { mustExist: true }).pipe(
      Flag.withAlias("i"),
      Flag.withDescription("Input file: completions, one JSON object a line.")
    ),
    output: Flag.File("output").pipe(
      Flag.withAlias("o"),
      Flag.withDescription(
        "Output file: one JSON object for each input line, in the same order. Results that it already has are kept."
      )
    ),
    concurrency: Flag.Int("concurrency").pipe(
      Flag.withDescription(
        "Completions scored at the same time; also the number of worker processes for a module verifier."
      ),
      Flag.withSchema(AtLeastOne),
      Flag.withDefault(4)
    ),
    deadline: Flag.Int("deadline").pipe(
      Flag.withMetavar("milliseconds"),
      Flag.withDescription("Time limit of one verdict. A verdict that takes longer is unscorable."),
      Flag.withSchema(AtLeastOne),
      Flag.withDefault(30_000)
    ),
    retries: Flag.Int("retries").pipe(
      Flag.withDescription("Number of times an unscorable completion is scored again."),
      Flag.withSchema(NotNegative),
      Flag.withDefault(1)
    ),
    strict: Flag.Boolean("strict").pipe(
      Flag.withDescription("Stop at the first invalid line."),
      Flag.withDefault(false)
    ),
    overwrite: Flag.Boolean("overwrite").pipe(
      Flag.withDescription("Start again and overwrite the output."),
      Flag.withDefault(false)
    )
  },
  Effect.fnUntraced(function* (flags) {
    const report = reporter(process.stderr)
    const options = flags.options._tag === "None" ? undefined : yield* parseOptions(flags.options.value)
    const tally = yield* scoreFile({
      verifier: flags.verifier,
      options,
      input: flags.input,
      output: flags.output,
      concurrency: flags.concurrency,
      deadline: flags.deadline,
      retries: flags.retries,
      strict: flags.strict,
      overwrite: flags.overwrite,
      note: report.note,
      progress: report.progress
    }).pipe(
      Effect.provide(WorkerPool.layer({ workers: flags.concurrency, deadline: flags.deadline })),
      Effect.catchTag("VerifierLoadError", ({ detail }) =>
        Effect.fail(
          new ScoreError({
            problem: `the verifier ${flags.verifier} cannot be loaded: ${detail.split("\n", 1)[0]!}`,
            remedy: "With --options its export is a function from options to a verifier, without it is the verifier"
          })
        )
      ),
      Effect.onInterrupt(() =>
        Effect.sync(() => {
          report.end()
          process.stderr.write(`interrupted: the same command continues from what ${flags.output} holds\n`)
        })
      )
    )
    report.end()
    process.stdout.write(`${tally.summary(flags.output)}\n`)
  })
).pipe(
  Command.withDescription(
    `Scores completions with one verifier.

Input, one JSON object a line, in one of two forms. A completion may also be a list of messages.
  {"id":"1","task":{"id":"sum","prompt":"12+7=?","data":{"answer":"19"}},"completion":"The sum is 19."}
  {"prompt":"12+7=?","completion":"The sum is 19.","answer":"19"}
In the second form the whole object is the task's data.

Output, one JSON object for each line:
  {"line":1,"id":"1","task":"sum","outcome":"scored","score":1,"reason":"...","metrics":{},"digest":"..."}
outcome is one of:
  scored       the completion has a score, with a reason
  unscorable   the scoring failed (timeout, crash, error); this is not a score of 0
  invalid      the line is not a completion

Run the same command again to continue an interrupted run. The digests make sure that input, verifier and options are
the same.

Verifiers:
${listed}

Exit codes:
  0    every line has a result
  1    the run could not start or continue
  2    an invalid line under --strict
  130  interrupted`
  ),
  Command.withShortDescription("Score a file of completions with a verifier"),
  Command.withExamples([
    {
      command: "quintain score --verifier json-schema --options @schema.json -i completions.jsonl -o scores.jsonl",
      description: 'With {"schema":{"type":"object","required":["name"]},"strict":true} in schema.json'
    },
    {
      command: `quintain score --verifier answer --options '{"compare":"number"}' -i gsm8k.jsonl -o scores.jsonl`,
      description: "Compare numbers with the answer of each line"
    },
    {
      command: `quintain score --verifier unit-tests --options '{"records":"human-eval"}' -i humaneval.jsonl -o scores.jsonl`,
      description: "Run code in a sandbox; each line is a HumanEval record with a completion"
    },
    {
      command:
        "quintain score --verifier ./rewards/proof.ts#proof -i completions.jsonl -o scores.jsonl --deadline 5000",
      description: "Your own verifier: export const proof = ({ task, trajectory }) => 1"
    }
  ])
)
