/** The child process of SandboxQuickJs, started with an empty environment and under node's permission model. */
import { make } from "./quickjsRuntime.ts"
import { serve } from "./child.ts"

const [core, variant, wasm] = process.argv.slice(2)
serve(() => make(core!, variant!, wasm!))
