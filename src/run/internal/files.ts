/** Files of a run: whole or absent, with typed errors. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs/promises"
import { hasTag } from "../../internal/hasTag.ts"
import { RunError } from "./RunError.ts"

export const io = <A>(operation: string, file: string, f: () => Promise<A>): Effect.Effect<A, RunError> =>
  Effect.tryPromise({
    try: f,
    catch: (cause) => new RunError({ operation, path: file, detail: String(cause) })
  })

export const writeWhole = (file: string, text: string): Effect.Effect<void, RunError> =>
  io("write", file, async () => {
    await fs.writeFile(`${file}.tmp`, text)
    await fs.rename(`${file}.tmp`, file)
  })

/** Waits until a file is on the disk. A checkpoint must be, before its rename makes it the newest. */
export const sync = (file: string): Effect.Effect<void, RunError> =>
  io("sync", file, async () => {
    const handle = await fs.open(file, "r")
    try {
      await handle.sync()
    } finally {
      await handle.close()
    }
  })

export const readIfThere = (file: string): Effect.Effect<string | undefined, RunError> =>
  io("read", file, () =>
    fs.readFile(file, "utf8").catch((cause: unknown) => {
      if (hasTag(cause, "code", "ENOENT")) return undefined
      throw cause
    })
  )

/** Fills a draft folder, then gives it its name. A former folder of that name is replaced. */
export const writeFolder = Effect.fnUntraced(function* <E, R>(
  final: string,
  fill: (draft: string) => Effect.Effect<void, E, R>
): Effect.fn.Return<void, RunError | E, R> {
  const draft = `${final}.tmp`
  yield* io("clear", draft, () => fs.rm(draft, { recursive: true, force: true }))
  yield* io("create", draft, () => fs.mkdir(draft, { recursive: true }))
  yield* fill(draft)
  yield* io("clear", final, () => fs.rm(final, { recursive: true, force: true }))
  yield* io("rename", final, () => fs.rename(draft, final))
})

/** Holds a lock file while the scope is open. The lock of a process that was killed is taken over. */
export const lock = (file: string): Effect.Effect<void, RunError, Scope.Scope> =>
  Effect.acquireRelease(
    io("lock", file, async () => {
      for (let attempt = 0; attempt < 2; attempt++) {
        try {
          await fs.writeFile(file, String(process.pid), { flag: "wx" })
          return
        } catch (cause) {
          if (!hasTag(cause, "code", "EEXIST")) throw cause
          const holder = Number(await fs.readFile(file, "utf8"))
          if (isAlive(holder)) {
            throw new Error(`process ${holder} is writing this run; stop it, or choose another directory`, { cause })
          }
          await fs.rm(file, { force: true })
        }
      }
      throw new Error("another process took the lock over")
    }),
    () => Effect.promise(() => fs.rm(file, { force: true }))
  )

const isAlive = (pid: number): boolean => {
  if (!Number.isInteger(pid) || pid <= 0) return false
  try {
    process.kill(pid, 0)
    return true
  } catch (cause) {
    return hasTag(cause, "code", "EPERM")
  }
}
