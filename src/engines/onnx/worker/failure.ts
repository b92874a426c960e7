/** What the engines of the worker thread share: their failures, aborts, and what the sampler is asked for. */
import type { SampleEvents, SampleRequest } from "../../internal/nativeModel.ts"

/** What goes wrong in the worker, with the same codes as the native kernel's errors, and `PROVIDER`, `DEVICE_LOST`. */
export class EngineFailure extends Error {
  readonly code: string
  constructor(code: string, message: string) {
    super(message)
    this.code = code
  }
}

/** Raised between two runs of the runtime; what is under way ends with `ABORTED`. */
export interface Abort {
  readonly aborted: boolean
}

export const throwIfAborted = (abort: Abort | undefined, operation: string): void => {
  if (abort?.aborted === true) throw new EngineFailure("ABORTED", `${operation} was aborted`)
}

export interface WorkerSampler {
  /** Token `i` is `bytes[offsets[i]..offsets[i + 1]]`, for stop strings. */
  readonly setVocabulary: (bytes: Uint8Array, offsets: Uint32Array) => void
  /** Queues a request; `emit` is called at most once a step, last with `done`, or once with an error. */
  readonly submit: (
    id: number,
    request: SampleRequest,
    emit: (error: Error | null, events?: SampleEvents) => void
  ) => void
  /** What is left of the request ends with reason `abort`. */
  readonly cancel: (id: number) => void
  /** Whether a step would do anything. */
  readonly busy: () => boolean
  /** One prefill, or one token for every sequence. What fails in the device fails the requests under way. */
  readonly step: () => Promise<void>
}
