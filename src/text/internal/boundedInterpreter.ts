/** Jinja's interpreter with a bound on what a template may build: one from outside could fill the memory. */
import { type Environment, Interpreter } from "@huggingface/jinja"

/** The library's, whose own declarations cannot be resolved as modules of Node. */
interface Evaluator {
  readonly run: (program: object) => { readonly value: unknown }
  evaluate(statement: { readonly type: string } | undefined, environment: Environment): { readonly value: unknown }
}
const Unbounded = Interpreter as unknown as new (environment: Environment) => Evaluator

/** Bound of one text and of one list. */
const MAX_TEXT = 2 ** 24
const MAX_LIST = 2 ** 18
/** Bound of everything that a rendering builds, kept or not. */
const MAX_TEXTS = 2 ** 30
const MAX_LISTS = 2 ** 22

/** A template asked for more than there is room for. */
export class TooMuch extends Error {}

// These give what is there already.
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
