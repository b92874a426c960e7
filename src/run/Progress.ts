/** Progress output of a run: one rewritten line on a terminal, a plain line per step elsewhere. */

import { duration } from "../internal/amounts.ts"

export { amount, duration } from "../internal/amounts.ts"
export { transfer } from "../model/TransferProgress.ts"
export type { Transfer } from "../model/TransferProgress.ts"

export interface ProgressStep {
  readonly step: number
  readonly steps: number
  readonly tokensPerSecond: number
  readonly loss?: number
  readonly reward?: number
  /** Held-out accuracy, when it was last measured. */
  readonly heldOut?: number
  readonly entropy?: number
}

export interface Progress {
  readonly step: (step: ProgressStep) => void
  /** A remark that stays: written above the line. */
  readonly note: (text: string) => void
  readonly end: () => void
}

/** The line of one step; `left` is the estimate of the seconds that remain. */
export const formatStep = (step: ProgressStep, left: number): string =>
  [
    `step ${String(step.step).padStart(String(step.steps).length)}/${step.steps}`,
    ...figure("loss", step.loss),
    ...figure("reward", step.reward),
    ...figure("held-out", step.heldOut),
    ...figure("entropy", step.entropy),
    `${Math.round(step.tokensPerSecond)} tokens/s`,
    `${duration(left)} left`
  ].join("  ")

const figure = (name: string, value: number | undefined): ReadonlyArray<string> =>
  value === undefined ? [] : [`${name} ${value.toFixed(3)}`]

export const silent: Progress = { step: () => {}, note: () => {}, end: () => {} }

/**
 * Progress on a stream, standard error by default so that standard output stays the program's own.
 *
 * @example
 * ```ts
 * const progress = Progress.make({ label: "GRPO" })
 * ```
 */
export const make = (options: {
  readonly label: string
  readonly output?: NodeJS.WriteStream
  /** Seconds since some origin; for tests. */
  readonly now?: () => number
}): Progress => {
  const output = options.output ?? process.stderr
  const now = options.now ?? (() => performance.now() / 1000)
  let begun: { readonly at: number; readonly step: number } | undefined
  let open = false
  const write = (line: string): void => {
    if (output.isTTY) {
      output.write(`\r\u001b[K${line.slice(0, Math.max(20, (output.columns ?? 100) - 1))}`)
      open = true
    } else {
      output.write(`${line}\n`)
    }
  }
  const clear = (): void => {
    if (open) output.write("\r\u001b[K")
    open = false
  }
  return {
    step: (step) => {
      // The first step pays for warm-up, so the estimate starts behind it.
      begun ??= { at: now(), step: step.step }
      const rate = (now() - begun.at) / (step.step - begun.step)
      write(`${options.label}  ${formatStep(step, rate * (step.steps - step.step))}`)
    },
    note: (text) => {
      clear()
      output.write(`${text}\n`)
    },
    end: () => {
      if (open) output.write("\n")
      open = false
    }
  }
}
