/** The Python that runs in a confined interpreter: text, which the host passes on and never runs itself. */
import { readFileSync } from "node:fs"

const read = (name: string): string => readFileSync(new URL(`../guest/python/${name}.py`, import.meta.url), "utf8")

let driverText: string | undefined
/** Makes an interpreter answer questions: see guest/python/driver.py. */
export const driver = (): string => (driverText ??= read("driver"))

let testRunnerText: string | undefined
/** Runs a user's test file, in an interpreter with the driver. */
export const testRunner = (): string => (testRunnerText ??= read("testRunner"))
