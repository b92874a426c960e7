/** Progress of a download, as the Hub reports it. */
import { amount, duration } from "../internal/amounts.ts"

/** Progress output of a download: one rewritten line on a terminal, nothing elsewhere. */
export interface Transfer {
  readonly bytes: (state: { readonly received: number; readonly total: number }) => void
  readonly note: (text: string) => void
  readonly end: () => void
}

/**
 * Shows the progress of a download on a stream, standard error by default.
 *
 * @example
 * ```ts
 * const progress = Progress.transfer({ label: "HuggingFaceTB/SmolLM2-135M-Instruct@main" })
 * ```
 */
export const transfer = (options: {
  readonly label: string
  readonly output?: NodeJS.WriteStream
  /** Seconds since some origin; for tests. */
  readonly now?: () => number
}): Transfer => {
  const output = options.output ?? process.stderr
  const now = options.now ?? (() => performance.now() / 1000)
  let begun: { readonly at: number; readonly received: number } | undefined
  let shown = -Infinity
  let open = false
  return {
    bytes: ({ received, total }) => {
      if (!output.isTTY) return
      const at = now()
      // Bytes that were present already say nothing about the speed.
      begun ??= { at, received }
      if (at - shown < 0.1 && received < total) return
      shown = at
      const rate = (received - begun.received) / Math.max(at - begun.at, 1e-3)
      const line = `${options.label}  ${amount(received)} of ${amount(total)}  ${amount(rate)}/s  ${duration((total - received) / rate)} left`
      output.write(`\r\u001b[K${line.slice(0, Math.max(20, (output.columns ?? 100) - 1))}`)
      open = true
    },
    note: (text) => {
      if (open) output.write("\r\u001b[K")
      open = false
      output.write(`${text}\n`)
    },
    end: () => {
      if (open) output.write("\n")
      open = false
    }
  }
}
