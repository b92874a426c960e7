/** The verifier library, and the sandbox that it runs model-written code in. */
export { jsonSchema, type JsonSchemaOptions, type SchemaLike } from "./JsonSchema.ts"
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
export { unitTests, type UnitTestCase, type UnitTestsOptions, type UnitTestStatus } from "./UnitTests.ts"
export { Opaque } from "./internal/TypedData.ts"
export * as JavaScriptSandbox from "./JavaScriptSandbox.ts"
