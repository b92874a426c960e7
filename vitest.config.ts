import { defineConfig } from "vitest/config"

// The sources run as they are: the same export condition that `node --conditions=quintain-source` uses.
const conditions = ["quintain-source", "node", "import", "module", "default"]

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions, externalConditions: conditions } },
  test: {
    include: ["tests/**/*.test.ts"],
    pool: "forks",
    execArgv: ["--conditions=quintain-source"],
    // Kernels use every core by themselves.
    maxWorkers: 2,
    // A test that hangs fails by these; nothing should come near them.
    testTimeout: 120_000,
    hookTimeout: 120_000,
    teardownTimeout: 30_000
  }
})
