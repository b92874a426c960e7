/** The verifier library, and the sandbox that it runs model-written code in. */
export { judge, type Criterion, type JudgeOptions, type Rubric } from "./text/Judge.ts"
export {
  answer,
  extractAnswer,
  type AnswerComparison,
  type AnswerComparisonName,
  type AnswerOptions,
  type Extraction
} from "./math/Answer.ts"
export { jsonSchema, type JsonSchemaOptions, type SchemaLike } from "./schema/JsonSchema.ts"
export { equivalent, type Equivalence, type EquivalenceOptions } from "./math/MathEquivalence.ts"
export { writtenInLanguage, writtenInScript, type LanguageOptions, type ScriptOptions } from "./text/Language.ts"
export {
  citations,
  formatTags,
  matchesPattern,
  ngramRepetition,
  textLength,
  type ByTask,
  type CitationOptions,
  type LengthLimits,
  type LengthOptions,
  type PatternOptions,
  type RepetitionOptions,
  type TagOptions,
  type TextOptions
} from "./text/TextVerifiers.ts"
export {
  parseToolCalls,
  recordedTools,
  toolReplay,
  type ParsedCalls,
  type Recording,
  type Tool,
  type ToolCall,
  type ToolReplayOptions
} from "./tools/ToolReplay.ts"
export {
  unitTests,
  type Comparison,
  type NamedComparison,
  type ProgramCase,
  type Tolerance,
  type UnitTestCase,
  type UnitTestsOptions,
  type UnitTestStatus,
  type UnitTestWork
} from "./code/UnitTests.ts"
export * as CodeRecords from "./code/CodeRecords.ts"
export { Opaque, PythonFloat, PythonTuple } from "../src/sandbox/TypedData.ts"
export * as Sandbox from "../src/sandbox/Sandbox.ts"
export * as SandboxIsolate from "../src/sandbox/SandboxIsolate.ts"
export * as Sandboxes from "../src/sandbox/Sandboxes.ts"
export * as SandboxPython from "../src/sandbox/SandboxPython.ts"
export * as SandboxQuickJs from "../src/sandbox/SandboxQuickJs.ts"
