/** The worker thread of an ONNX engine: opens what `workerData` names, then serves it until it is told to close. */
import { type MessagePort, parentPort, workerData } from "node:worker_threads"
import { describe } from "../../../addon/addon.ts"
import { openEngines } from "./engines.ts"
import type { FromWorker, WorkerSettings } from "./protocol.ts"
import { serve } from "./serve.ts"

const port = parentPort as MessagePort
const send = (message: FromWorker): void => port.postMessage(message)

const main = async (): Promise<void> => {
  try {
    const { device, engines } = await openEngines(workerData as WorkerSettings)
    send({ _tag: "Opened", facts: engines.facts(), provider: device.provider, refused: device.refused })
    await serve(port, engines)
  } catch (cause) {
    send({ _tag: "Refused", failure: describe(cause) })
  }
}

// Not awaited: messages are delivered only after the module has been evaluated.
void main()
