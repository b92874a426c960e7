#!/usr/bin/env node
/** The command `quintain`. */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Effect from "effect/Effect"
import { Command } from "effect/cli"
import { readFileSync } from "node:fs"
import { score } from "./Score.ts"

const quintain = Command.make("quintain").pipe(
  Command.withDescription("Tools for reinforcement learning with verifiable rewards."),
  Command.withSubcommands([score])
)

const manifest = JSON.parse(readFileSync(new URL(import.meta.resolve("quintain/package.json")), "utf8")) as {
  readonly version: string
}

Command.run(quintain, { version: manifest.version }).pipe(Effect.provide(NodeServices.layer), NodeRuntime.runMain)
