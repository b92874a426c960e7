/** What a person sees while a run goes on: one rewritten line on a terminal, a plain line per step elsewhere. */

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

export const duration = (seconds: number): string => {
  if (!Number.isFinite(seconds)) return "?"
  const s = Math.round(seconds)
  if (s < 60) return `${s} s`
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`
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

/** What a person sees of a download: one rewritten line on a terminal, nothing elsewhere. */
export interface Transfer {
  readonly bytes: (state: { readonly received: number; readonly total: number }) => void
  readonly note: (text: string) => void
  readonly end: () => void
}

const UNITS = ["bytes", "kB", "MB", "GB", "TB"]

/** `1.5 GB`: three figures, powers of 1000. */
export const amount = (bytes: number): string => {
  const power = Math.min(UNITS.length - 1, Math.floor(Math.log10(Math.max(1, bytes)) / 3))
  const value = bytes / 1000 ** power
  return `${power === 0 || value >= 99.95 ? Math.round(value) : value.toPrecision(3)} ${UNITS[power]}`
}

/**
 * Progress of a download on a stream, standard error by default.
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
      // What was there already says nothing about the speed.
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
