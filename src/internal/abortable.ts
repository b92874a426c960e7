import * as Effect from "effect/Effect"

/** Interruption raises the signal, and waits until the engine has really stopped. */
export const abortable = <A, E>(
  run: (signal: AbortSignal) => Promise<A>,
  failed: (cause: unknown) => E
): Effect.Effect<A, E> =>
  Effect.callback((resume) => {
    const abort = new AbortController()
    const done = run(abort.signal).then(
      (value) => resume(Effect.succeed(value)),
      (cause: unknown) => resume(Effect.fail(failed(cause)))
    )
    return Effect.promise(() => {
      abort.abort()
      return done
    })
  })
