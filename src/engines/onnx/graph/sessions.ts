/** The sessions of an engine. Each graph is made once, at its first use. */
import type { Device, Session } from "../worker/device.ts"
import type { Model } from "./graph.ts"

export class Sessions {
  readonly #device: Device
  readonly #sessions = new Map<string, Promise<Session>>()

  constructor(device: Device) {
    this.#device = device
  }

  /** `key` states everything that the graph depends on; `host` names results that are read on the host. */
  get(key: string, make: () => Model, host: ReadonlyArray<string> = []): Promise<Session> {
    const known = this.#sessions.get(key)
    if (known !== undefined) return known
    const session = this.#device.session(make(), { host, name: key.split(" ")[0]! })
    // A failure for lack of memory may not recur.
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
