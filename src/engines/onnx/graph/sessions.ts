/** The sessions of an engine: each graph is made once, when it is first needed. */
import type { Device, Session } from "../worker/device.ts"
import type { Model } from "./graph.ts"

export class Sessions {
  readonly #device: Device
  readonly #sessions = new Map<string, Promise<Session>>()

  constructor(device: Device) {
    this.#device = device
  }

  /** `key` says all that the graph depends on; `host`: results that are to be read here. */
  get(key: string, make: () => Model, host: ReadonlyArray<string> = []): Promise<Session> {
    const known = this.#sessions.get(key)
    if (known !== undefined) return known
    const session = this.#device.session(make(), { host, name: key.split(" ")[0]! })
    // What failed for want of memory may succeed later.
    session.catch(() => this.#sessions.delete(key))
    this.#sessions.set(key, session)
    return session
  }

  async release(): Promise<void> {
    const sessions = await Promise.allSettled(this.#sessions.values())
    this.#sessions.clear()
    for (const made of sessions) if (made.status === "fulfilled") await made.value.release()
  }
}
