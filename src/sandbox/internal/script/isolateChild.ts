/**
 * The child process of SandboxIsolate. Started with `--no-concurrent-osr`, without which V8 13.6 cannot end some loops; with
 * `--no-concurrent-recompilation`, because the first flag alone leaves hot loops unoptimised (2 million rounds: 400 ms
 * against 10); with an empty environment; and under node's permission model: should a candidate ever leave its isolate,
 * it finds no files but this code, and no processes.
 */
import { make } from "./isolateRuntime.ts"
import { serve } from "./child.ts"

serve(async (events) => make(process.argv[2]!, events))
