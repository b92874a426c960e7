/**
 * Jinja's interpreter with a bound on the size of what a template builds. An untrusted template could fill the memory.
 */
import { type Environment, Interpreter } from "@huggingface/jinja"

/** The library's evaluator. Node cannot resolve the library's own declarations as modules. */
interface Evaluator {
  readonly run: (program: object) => { readonly value: unknown }
  evaluate(statement: { readonly type: string } | undefined, environment: Environment): { readonly value: unknown }
}
const Unbounded = Interpreter as unknown as new (environment: Environment) => Evaluator

/** Most characters of one text, and most entries of one list. */
const MAX_TEXT = 2 ** 24
const MAX_LIST = 2 ** 18
/** Most characters and entries that a rendering builds in total, kept or not. */
const MAX_TEXTS = 2 ** 30
const MAX_LISTS = 2 ** 22

/** A template exceeded a bound. */
export class TooMuch extends Error {}

// These nodes return values that exist already.
const BUILDS_NOTHING = new Set(["Identifier", "StringLiteral", "MemberExpression", "Ternary"])

export class BoundedInterpreter extends Unbounded {
  private texts = 0
  private lists = 0

  override evaluate(...[statement, environment]: Parameters<Evaluator["evaluate"]>): ReturnType<Evaluator["evaluate"]> {
    const result = super.evaluate(statement, environment)
    if (statement === undefined || BUILDS_NOTHING.has(statement.type)) return result
    const { value } = result
    if (typeof value === "string") {
      this.texts += value.length
      if (value.length > MAX_TEXT || this.texts > MAX_TEXTS) throw new TooMuch("it builds too much text")
    } else if (Array.isArray(value)) {
      this.lists += value.length
      if (value.length > MAX_LIST || this.lists > MAX_LISTS) throw new TooMuch("it builds too long lists")
    }
    return result
  }
}
