/**
 * Chat templates: the Jinja templates by which models learnt to read conversations.
 *
 * Hugging Face's own engine for JavaScript renders them, as `apply_chat_template` of transformers does.
 */
import { Environment, Template } from "@huggingface/jinja"
import * as Schema from "effect/Schema"
import type { Message } from "./Conversation.ts"
import { BoundedInterpreter } from "./internal/boundedInterpreter.ts"
import { TookTooLong, within } from "../internal/deadline.ts"

/** A template that is invalid, or that refuses a conversation (`raise_exception`). */
export class TemplateError extends Schema.TaggedError<TemplateError>()("TemplateError", {
  /** Origin of the template. */
  file: Schema.String,
  problem: Schema.String,
  remedy: Schema.String
}) {
  override get message(): string {
    return `${this.file}, chat template: ${this.problem}. ${this.remedy}.`
  }
}

export interface ChatTemplateSettings {
  /** Origin of the template, for errors. */
  readonly file: string
  /** Variables that every rendering sees, e.g. `bos_token` and `eos_token`. */
  readonly variables?: Readonly<Record<string, string>>
  /**
   * Time that `strftime_now` formats. A template that writes the date into its prompt gives other tokens on another
   * day.
   */
  readonly now?: () => Date
  /** Milliseconds after which a rendering is stopped. Default 10,000. */
  readonly milliseconds?: number
}

export interface TemplateOptions {
  /** Function definitions, as JSON Schema. */
  readonly tools?: ReadonlyArray<object>
  /** For templates of retrieval models. */
  readonly documents?: ReadonlyArray<object>
  /** Whether to end with the text that opens the assistant's turn. Default false. */
  readonly addGenerationPrompt?: boolean
  /** Further variables of the template, for example `{ enable_thinking: false }`. */
  readonly variables?: Readonly<Record<string, unknown>>
}

// transformers omits null fields. Templates that test for null were written when it did not.
const LOOKS_FOR_NULL = /content['"\]\s]*\bis\s+(?:not\s+)?none\b/i

/** One template, or several by name: `default`, and for instance `tool_use`, which is used if there are tools. */
export type Sources = string | Readonly<Record<string, string>>

export interface ChatTemplate {
  /** The default template. */
  readonly source: string
  /** Renders a conversation; throws {@link TemplateError}. */
  readonly render: (messages: ReadonlyArray<Message>, options?: TemplateOptions) => string
}

const MAX_SOURCE = 2 ** 20
const MAX_RANGE = 100_000

class Refused extends Error {}

const MONTHS = "January February March April May June July August September October November December".split(" ")
const DAYS = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split(" ")

/** Python's strftime in the C locale, for the directives that templates use. */
const strftime = (date: Date, format: string): string => {
  const two = (number: number) => String(number).padStart(2, "0")
  const hour = date.getHours() % 12 === 0 ? 12 : date.getHours() % 12
  const of: Record<string, string> = {
    Y: String(date.getFullYear()),
    y: two(date.getFullYear() % 100),
    m: two(date.getMonth() + 1),
    d: two(date.getDate()),
    e: String(date.getDate()).padStart(2),
    B: MONTHS[date.getMonth()]!,
    b: MONTHS[date.getMonth()]!.slice(0, 3),
    A: DAYS[date.getDay()]!,
    a: DAYS[date.getDay()]!.slice(0, 3),
    H: two(date.getHours()),
    I: two(hour),
    p: date.getHours() < 12 ? "AM" : "PM",
    M: two(date.getMinutes()),
    S: two(date.getSeconds()),
    "%": "%"
  }
  return format.replace(/%(.)/g, (whole, letter: string) => (Object.hasOwn(of, letter) ? of[letter]! : whole))
}

/** Python's `range`, limited to a size that cannot fill the memory. */
const range = (start: unknown, stop?: unknown, step: unknown = 1): ReadonlyArray<number> => {
  const [from, to] = stop === undefined ? [0, start] : [start, stop]
  if (![from, to, step].every(Number.isSafeInteger) || step === 0) throw new Refused("range() of what are not integers")
  const length = Math.max(0, Math.ceil((Number(to) - Number(from)) / Number(step)))
  if (length > MAX_RANGE) throw new Refused(`range() of ${length} numbers, more than ${MAX_RANGE}`)
  return Array.from({ length }, (_, index) => Number(from) + index * Number(step))
}

const withoutNull = (message: Message): object =>
  Object.fromEntries(Object.entries(message).filter(([, value]) => value !== null && value !== undefined))

const globals = {
  true: true,
  True: true,
  false: false,
  False: false,
  none: null,
  None: null,
  range,
  raise_exception: (problem: unknown) => {
    throw new Refused(String(problem))
  }
}

/**
 * Parses a template; throws {@link TemplateError}.
 *
 * A template is an untrusted program. It sees only what it is given, and is stopped if it takes too long or builds too
 * much.
 *
 * @example
 * ```ts
 * const template = ChatTemplate.make("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}", { file: "mine" })
 * template.render([{ role: "user", content: "Hi" }])   // "<user>Hi"
 * ```
 */
export const make = (sources: Sources, settings: ChatTemplateSettings): ChatTemplate => {
  const { file, milliseconds = 10_000, now = () => new Date(), variables = {} } = settings
  const fail = (problem: string, remedy: string) => new TemplateError({ file, problem, remedy })
  const run = <A>(remedy: string, work: () => A): A => {
    try {
      return within(milliseconds, work)
    } catch (error) {
      if (error instanceof TookTooLong) throw fail(error.message, "Use another template")
      throw fail(error instanceof Error ? error.message : String(error), remedy)
    }
  }

  const named = typeof sources === "string" ? { default: sources } : sources
  const templates = new Map(
    Object.entries(named).map(([name, source]) => {
      if (source.length > MAX_SOURCE) {
        throw fail(`${name} has ${source.length} characters, more than ${MAX_SOURCE}`, "Use another template")
      }
      const template = run("Correct the template, or use another", () => new Template(source))
      return [name, { template, keepsNull: LOOKS_FOR_NULL.test(source) }]
    })
  )
  if (!templates.has("default")) throw fail("no template is named default", "Name one of them default")

  return {
    source: named["default"]!,
    render: (messages, options = {}) => {
      const tools = options.tools === undefined || options.tools.length === 0 ? null : options.tools
      const { keepsNull, template } =
        (tools === null ? undefined : templates.get("tool_use")) ?? templates.get("default")!
      return run("Give it a conversation of the form that it takes", () => {
        const values = {
          ...globals,
          ...variables,
          strftime_now: (format: unknown) => strftime(now(), String(format)),
          ...options.variables,
          messages: keepsNull ? messages : messages.map(withoutNull),
          tools,
          documents: options.documents ?? null,
          add_generation_prompt: options.addGenerationPrompt === true
        }
        // Template.render would set its own globals first, and a name is set only once.
        const environment = new Environment()
        for (const [name, value] of Object.entries(values)) environment.set(name, value)
        return String(new BoundedInterpreter(environment).run(template.parsed).value)
      })
    }
  }
}
