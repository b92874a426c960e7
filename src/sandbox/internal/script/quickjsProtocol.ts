/** Messages between a child process of SandboxQuickJs and its thread, on which the runtime runs. */
import type { Fault } from "../../Sandbox.ts"
import type { RealmKind } from "./prelude.ts"
import type { Imports } from "./modules.ts"

/** The part of WebAssembly that is used, which the types of this package do not name. */
export interface WasmModule {
  readonly wasm: never
}
export const { Memory, compile } = (
  globalThis as unknown as {
    readonly WebAssembly: {
      readonly Memory: new (size: { readonly initial: number; readonly maximum: number }) => object
      readonly compile: (bytes: Uint8Array) => Promise<WasmModule>
    }
  }
).WebAssembly

export interface ThreadSetup {
  /** Paths of quickjs-emscripten-core and of its variant: the folders that a search would look in are closed. */
  readonly core: string
  readonly variant: string
  readonly wasm: WasmModule
  /** One word, on which the thread sleeps until its question is answered on the port beside it. */
  readonly signal: Int32Array<SharedArrayBuffer>
}

export type ThreadRequest = { readonly serial: number } & (
  | { readonly kind: "realm"; readonly realm: RealmKind; readonly memoryMb: number }
  | { readonly kind: "invoke"; readonly timeout: number; readonly texts: ReadonlyArray<string | null> }
  | { readonly kind: "module"; readonly timeout: number; readonly source: string; readonly imports: Imports }
  | { readonly kind: "rest" }
)

export type ThreadResponse =
  | { readonly serial: number; readonly text: string }
  | { readonly serial: number; readonly status: Fault; readonly detail: string }
  | { readonly ask: string }
