/** A candidate that answers questions, and a test file that asks them: two confined interpreters, and the host between. */
import { randomBytes } from "node:crypto"
import type { Fault, TestResult } from "../../Sandbox.ts"
import type * as PythonProcess from "./process.ts"
import { testRunner } from "./guest.ts"

/** After this many processes that had to be ended, the rest of an evaluation is not tried. */
export const maxEnded = 2

/** No verdict, and another try would not give one. */
export class Unjudged extends Error {}

export interface Session {
  /** Milliseconds that the next step has. */
  readonly left: () => number
  /** Milliseconds of all steps. */
  readonly remaining: () => number
  readonly over: () => boolean
  readonly process: () => Promise<PythonProcess.PythonProcess>
  /** The candidate's status; throws where it is not the candidate's doing. */
  readonly check: (end: PythonProcess.End) => Fault
}

export interface Answer {
  readonly status: "value" | Fault
  /** JSON, or the sandbox's own words where `plain`. */
  readonly text: string
}

const letters: Readonly<Record<string, Answer["status"]>> = {
  v: "value",
  e: "error",
  m: "memory",
  o: "output",
  l: "load"
}

/** The candidate's process, started anew when a question has ended it. */
export class Served {
  readonly #session: Session
  readonly #source: string
  #own: PythonProcess.PythonProcess | undefined
  #ended = 0
  /** The answer to every question, once asking has no sense. */
  #final: Answer | undefined

  constructor(session: Session, source: string) {
    this.#session = session
    this.#source = source
  }

  async ask(question: string): Promise<Answer> {
    if (this.#final !== undefined) return this.#final
    if (this.#own?.alive() !== true) {
      const fault = await this.#load()
      if (fault !== undefined) return fault
    }
    return this.#exchange(question, false)
  }

  async #load(): Promise<Answer | undefined> {
    const session = this.#session
    if (session.over()) return (this.#final = plain("timeout", "the time of all cases is over"))
    this.#own = await session.process()
    const loaded = await this.#exchange(`"serve",${JSON.stringify(this.#source)}`, true)
    // it would fare no better the next time
    return loaded.status === "value" ? undefined : (this.#final = loaded)
  }

  async #exchange(question: string, loading: boolean): Promise<Answer> {
    const session = this.#session
    if (session.over()) return (this.#final = plain("timeout", "the time of all cases is over"))
    const own = this.#own!
    const nonce = number()
    own.send(`["${nonce}",${question}]`)
    if (loading) own.input("")
    const line = await own.line(nonce, session.left())
    if ("kind" in line) return { status: letters[line.kind] ?? "error", text: line.payload }
    const status = session.check(line)
    const detail = line.reason === "exit" ? "it ended its process" : line.detail
    const answer = plain(loading && status === "error" ? "load" : status, detail)
    if (++this.#ended >= maxEnded) this.#final = answer
    return answer
  }
}

/** The two interpreters of a test file: what one asks, the other answers; this process only passes it on. */
export const runTests = async (session: Session, source: string, tests: string): Promise<ReadonlyArray<TestResult>> => {
  const candidate = new Served(session, source)
  const own = await session.process()
  const nonce = number()
  const results: Array<TestResult> = []
  let names: ReadonlyArray<string> = []
  own.send(`["${nonce}","test",${JSON.stringify(tests)}]`)
  own.send(JSON.stringify([testRunner()]))
  own.input("")
  const rest = (status: Fault, detail: string): ReadonlyArray<TestResult> =>
    names.length === 0
      ? [{ name: "the file itself", status, detail }]
      : names.map((name, index) => results[index] ?? { name, status, detail })
  let last: Answer | undefined
  while (names.length === 0 || Object.keys(results).length < names.length) {
    const line = await own.line(nonce, session.remaining())
    if (!("kind" in line)) {
      // a test that hangs or dies on what the candidate returned is the candidate's
      const status = session.check(line)
      return rest(status, line.detail)
    }
    if (line.kind === "q") {
      last = await candidate.ask(line.payload.slice(1, -1))
      own.send(reply(last))
    } else if (line.kind === "n") names = JSON.parse(line.payload) as ReadonlyArray<string>
    else if (line.kind === "r") {
      const [index, status, detail] = JSON.parse(line.payload) as [number, TestResult["status"], string]
      results[index] = { name: names[index]!, status, detail }
    } else if (line.kind === "i") throw new Unjudged(text(line.payload))
  }
  return results
}

/** The answer as the test file's interpreter reads it. The text is the candidate's: it has to be one JSON value. */
const reply = ({ status, text: payload }: Answer): string => {
  try {
    JSON.parse(payload)
  } catch {
    return `["x","error","it answered something that is no data"]`
  }
  if (status === "value") return `["v",${payload}]`
  if (status === "error" && payload.startsWith("[")) return `["e",${payload}]`
  return `["x",${JSON.stringify(status)},${payload}]`
}

const plain = (status: Answer["status"], detail: string): Answer => ({ status, text: JSON.stringify(detail) })

export const number = (): string => randomBytes(16).toString("hex")

/** The child is not trusted: what it says is text until it has been read here. */
export const text = (payload: string): string => {
  try {
    return String(JSON.parse(payload)).slice(0, 500)
  } catch {
    return "?"
  }
}
