/** The verifier library, and the sandbox that it runs model-written code in. */
export { judge, type Criterion, type JudgeOptions, type Rubric } from "./Judge.ts"
export {
  answer,
  extractAnswer,
  type AnswerComparison,
  type AnswerComparisonName,
  type AnswerOptions,
  type Extraction
} from "./Answer.ts"
export { jsonSchema, type JsonSchemaOptions, type SchemaLike } from "./JsonSchema.ts"
export { equivalent, type Equivalence, type EquivalenceOptions } from "./MathEquivalence.ts"
export {
  citations,
  formatTags,
  matchesPattern,
  ngramRepetition,
  textLength,
  writtenInLanguage,
  writtenInScript,
  type ByTask,
  type CitationOptions,
  type LanguageOptions,
  type LengthLimits,
  type LengthOptions,
  type PatternOptions,
  type RepetitionOptions,
  type ScriptOptions,
  type TagOptions,
  type TextOptions
} from "./TextVerifiers.ts"
export {
  parseToolCalls,
  recordedTools,
  toolReplay,
  type ParsedCalls,
  type Recording,
  type Tool,
  type ToolCall,
  type ToolReplayOptions
} from "./ToolReplay.ts"
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
} from "./UnitTests.ts"
export * as CodeRecords from "./CodeRecords.ts"
export { Opaque, PythonFloat, PythonTuple } from "./internal/TypedData.ts"
export * as Sandbox from "./Sandbox.ts"
export * as SandboxIsolate from "./SandboxIsolate.ts"
export * as SandboxPython from "./SandboxPython.ts"
export * as SandboxQuickJs from "./SandboxQuickJs.ts"
