/** Types that the engines of the worker thread share: failures, aborts, and requests of the sampler. */
import type { SampleEvents, SampleRequest } from "../../internal/nativeModel.ts"

/** A failure in the worker, with the codes of the native kernel's errors, and `PROVIDER`, `DEVICE_LOST`. */
export class EngineFailure extends Error {
  readonly code: string
  constructor(code: string, message: string) {
    super(message)
    this.code = code
  }
}

/** A flag that is read between two runs of the runtime; the call in progress then ends with `ABORTED`. */
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
  /** Ends the rest of the request with reason `abort`. */
  readonly cancel: (id: number) => void
  /** Whether a step would do anything. */
  readonly busy: () => boolean
  /** Computes one prefill, or one token for every sequence. A failure of the device fails the requests in flight. */
  readonly step: () => Promise<void>
}
