/** Environments and procedural task generators, which need no data set. */
export * as DigitCompletion from "./DigitCompletion.ts"
export { digitCompletion } from "./DigitCompletion.ts"
export * as Lookup from "./Lookup.ts"
export { lookup } from "./Lookup.ts"
export * as ToolCaller from "./ToolCaller.ts"
export { toolCaller } from "./ToolCaller.ts"
export * as Toolkit from "./Toolkit.ts"
export { toolkit } from "./Toolkit.ts"
