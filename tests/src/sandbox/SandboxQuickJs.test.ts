import * as SandboxQuickJs from "../../../src/sandbox/SandboxQuickJs.ts"
import { suite } from "../../fixtures/scriptSandboxes.ts"

// it interprets: honest work takes several times what it takes in V8
suite("quickjs", SandboxQuickJs.make, { children: 1, timeout: 1500, total: 6000, memoryMb: 64 })
