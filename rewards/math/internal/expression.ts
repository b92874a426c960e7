/** An expression as data: what the parser gives, the exact algebra reads, and the library is handed. */
import type { Rational } from "./rational.ts"

export type Expression =
  | { readonly op: "number"; readonly value: Rational }
  /** A symbol, or one of the constants `pi`, `e`, `i`. */
  | { readonly op: "symbol"; readonly name: string }
  | { readonly op: "constant"; readonly name: "pi" | "e" | "i" }
  | { readonly op: "infinity" }
  | { readonly op: "add" | "mul"; readonly args: ReadonlyArray<Expression> }
  | { readonly op: "div" | "pow"; readonly args: readonly [Expression, Expression] }
  /** `root`: of the second argument's order; `log`: to the base of the second argument. */
  | { readonly op: "root" | "log" | "binomial"; readonly args: readonly [Expression, Expression] }
  | { readonly op: "neg" | "ln" | "abs" | "floor" | "ceil" | "factorial" | Trig; readonly args: readonly [Expression] }
  /** One of two signs: has two values. */
  | { readonly op: "pm"; readonly args: readonly [Expression] }

export type Trig =
  | "sin"
  | "cos"
  | "tan"
  | "cot"
  | "sec"
  | "csc"
  | "arcsin"
  | "arccos"
  | "arctan"
  | "sinh"
  | "cosh"
  | "tanh"

/** The outermost form of an answer. */
export type Answer =
  | { readonly kind: "value"; readonly value: Expression }
  | { readonly kind: "tuple" | "set" | "list" | "union"; readonly items: ReadonlyArray<Answer> }
  | {
      readonly kind: "interval"
      readonly open: readonly [boolean, boolean]
      readonly ends: readonly [Expression, Expression]
    }
  | { readonly kind: "matrix"; readonly rows: ReadonlyArray<ReadonlyArray<Expression>> }
  /** `a = b`, `a < b <= c`: sides, and what stands between them. */
  | {
      readonly kind: "relation"
      readonly sides: ReadonlyArray<Answer>
      readonly signs: ReadonlyArray<Sign>
      readonly named: boolean
    }

export type Sign = "=" | "<" | "<=" | ">" | ">=" | "!=" | "in"

/** The answer, and what it is counted in: `""` when nothing is said. */
export interface Measured {
  readonly answer: Answer
  readonly unit: string
}
