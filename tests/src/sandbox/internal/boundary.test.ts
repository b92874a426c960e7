import { assert, describe, it } from "@effect/vitest"
import { spawn, type ChildProcess } from "node:child_process"
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { confine, probe, type Command } from "../../../../src/sandbox/internal/boundary.ts"
import * as cgroup from "../../../../src/sandbox/internal/cgroup.ts"
import { filter } from "../../../../src/sandbox/internal/seccomp.ts"

const here = await probe()
const confinable = here.isolation === "bubblewrap"
if (!confinable) console.warn(`skipped: bubblewrap does not hold here (${here.detail}). To fix it: ${here.remedy}`)

const limits = { memoryMb: 256, processes: 64, fileMb: 8, cpuSeconds: 60 }
const environment = { PATH: "/usr/bin:/bin" }
const shell = (script: string, more: Partial<Command> = {}): Command => ({
  file: "/bin/sh",
  args: ["-c", script],
  env: environment,
  readable: [],
  addressMb: 512,
  ...limits,
  ...more
})

const start = (command: Command): ChildProcess => {
  const confined = confine(command, "bubblewrap")
  const child = spawn(confined.file, confined.args, {
    ...confined.options,
    stdio: ["ignore", "pipe", "pipe", ...confined.stdio]
  })
  confined.started(child)
  return child
}

const output = (child: ChildProcess): Promise<{ readonly out: string; readonly code: number | null }> =>
  new Promise((resolve) => {
    let out = ""
    for (const stream of [child.stdout, child.stderr]) stream?.on("data", (chunk) => (out += String(chunk)))
    child.once("close", (code) => resolve({ out, code }))
  })

const run = (script: string, more?: Partial<Command>) => output(start(shell(script, more)))

/** The kernel's verdict on a call: classic BPF, as far as the filter uses it. */
const verdict = (program: Buffer, call: { number: number; audit: number; args?: ReadonlyArray<number> }): number => {
  const data = Buffer.alloc(64)
  data.writeUInt32LE(call.number, 0)
  data.writeUInt32LE(call.audit, 4)
  call.args?.forEach((value, index) => data.writeUInt32LE(value, 16 + 8 * index))
  let word = 0
  for (let at = 0; at < program.length; at += 8) {
    const code = program.readUInt16LE(at)
    const value = program.readUInt32LE(at + 4)
    const holds = code === 0x15 ? word === value : code === 0x35 ? word >= value : (word & value) !== 0
    if (code === 0x20) word = data.readUInt32LE(value)
    else if (code === 0x06) return value
    else if (code === 0x15 || code === 0x35 || code === 0x45) at += 8 * program.readUInt8(at + (holds ? 2 : 3))
    else assert.fail(`an instruction that the filter should not have: ${code}`)
  }
  return assert.fail("it ran over the end")
}

const allowed = 0x7fff0000
const refused = 0x00050001
const missing = 0x00050026
const killed = 0x80000000

describe("seccomp filter", () => {
  const machines = {
    x64: { audit: 0xc000003e, read: 0, socket: 41, ptrace: 101, ring: 425, clone: 56, clone3: 435, ioctl: 16 },
    arm64: { audit: 0xc00000b7, read: 63, socket: 198, ptrace: 117, ring: 425, clone: 220, clone3: 435, ioctl: 29 }
  }
  for (const [architecture, machine] of Object.entries(machines)) {
    const program = filter(architecture)!
    const judge = (number: number, args?: ReadonlyArray<number>) =>
      verdict(program, { number, audit: machine.audit, ...(args && { args }) })

    it(`refuses what reaches beyond the process and lets the rest through (${architecture})`, () => {
      assert.strictEqual(judge(machine.read), allowed)
      for (const call of [machine.socket, machine.ptrace, machine.ring]) assert.strictEqual(judge(call), refused)
      assert.strictEqual(judge(machine.clone3), missing)
    })

    it(`lets threads and processes start, but no namespaces (${architecture})`, () => {
      const thread = 0x003d0f00
      assert.strictEqual(judge(machine.clone, [thread]), allowed)
      for (const flag of [0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000]) {
        assert.strictEqual(judge(machine.clone, [(thread | flag) >>> 0]), refused)
      }
    })

    it(`refuses to type into a terminal (${architecture})`, () => {
      assert.strictEqual(judge(machine.ioctl, [0, 0x5401]), allowed)
      assert.strictEqual(judge(machine.ioctl, [0, 0x5412]), refused)
      assert.strictEqual(judge(machine.ioctl, [0, 0x541c]), refused)
    })

    it(`ends calls of another architecture (${architecture})`, () => {
      assert.strictEqual(verdict(program, { number: machine.read, audit: 0x40000003 }), killed)
    })
  }

  it("ends calls of the interface with 32-bit pointers on x86-64", () => {
    assert.strictEqual(verdict(filter("x64")!, { number: 0x40000000, audit: machines.x64.audit }), killed)
  })

  it("is missing for an architecture without a table", () => {
    assert.isUndefined(filter("s390x"))
  })
})

describe("probe", () => {
  it("names what is not installed, and the command that installs it", async () => {
    const found = await probe("bubblewrap", {})
    assert.strictEqual(found.isolation, "process")
    if (process.platform === "linux") {
      assert.include(found.detail, "bwrap is not installed")
      assert.include(found.remedy, "apt-get install bubblewrap")
    } else assert.include(found.detail, process.platform)
    assert.include(found.lacks, "no network")
  })

  it.runIf(process.platform === "linux")("tells a bubblewrap that does not start from one that holds", async () => {
    const found = await probe("bubblewrap", { bwrap: "/bin/false", prlimit: "/bin/true" })
    assert.strictEqual(found.isolation, "process")
    assert.isNotEmpty(found.detail)
    assert.isNotEmpty(found.remedy)
  })

  it("says what a plain process does not hold", async () => {
    const found = await probe("process")
    assert.strictEqual(found.isolation, "process")
    assert.include(found.lacks, "private file system")
    assert.strictEqual(found.remedy, "")
  })

  it.runIf(confinable)("lists what was seen from inside", () => {
    for (const property of ["no network", "private file system", "own process space", "a user without rights"]) {
      assert.include(here.holds, property)
    }
  })
})

describe.skipIf(!confinable)("a confined process", () => {
  it("has the environment that it was given and nothing of this machine's", async () => {
    const { out } = await run("env; ls /; ls /root /home /etc/passwd 2>&1; id -u", { env: { ...environment, A: "1" } })
    assert.match(out, /^A=1$/m)
    assert.notMatch(out, /HOME=|USER=|SHELL=/)
    assert.notMatch(out, /^(home|root|var|boot)$/m)
    assert.match(out, /^1000$/m)
  })

  it("can write to /tmp alone, and only so much", async () => {
    const { out } = await run(
      "for f in / /usr /dev /etc /proc/sys/kernel /dev/shm/x; do touch $f/new 2>/dev/null && echo wrote $f; done; head -c 7000000 /dev/zero > /tmp/a && echo small; head -c 9000000 /dev/zero > /tmp/b || echo large"
    )
    assert.notInclude(out, "wrote")
    assert.include(out, "small")
    assert.include(out, "large")
    assert.isFalse(existsSync("/tmp/a"))
  })

  it("stops at its number of processes", async () => {
    const { out } = await run(
      "i=0; while [ $i -lt 40 ]; do sleep 5 & i=$((i+1)); done 2>&1; ls -d /proc/[0-9]* | wc -l; kill $(jobs -p)",
      { processes: 12 }
    )
    assert.match(out, /[Cc]annot fork|Resource temporarily unavailable/)
  })

  it("speaks over an IPC channel, and reads a folder that only this user can walk into", async () => {
    const folder = mkdtempSync(join(tmpdir(), "quintain-"))
    try {
      chmodSync(folder, 0o700)
      const file = join(folder, "child.mjs")
      writeFileSync(
        file,
        `process.on("message", (text) => process.send([text, process.getuid(), process.env.B ?? ""]))`
      )
      const command = confine(
        {
          ...limits,
          file: process.execPath,
          args: [file],
          env: { NODE_CHANNEL_FD: "3", B: "given" },
          readable: [folder],
          descriptors: [3]
        },
        "bubblewrap"
      )
      const child = spawn(command.file, command.args, {
        ...command.options,
        stdio: ["ignore", "ignore", "inherit", "ipc", ...command.stdio]
      })
      command.started(child)
      child.send("hello")
      const answer = await new Promise((resolve) => {
        child.once("message", resolve)
        child.once("close", resolve)
      })
      assert.deepStrictEqual(answer, ["hello", 1000, "given"])
      const closed = new Promise((resolve) => child.once("close", resolve))
      command.kill(child)
      await closed
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  const fixture = fileURLToPath(new URL("../../../fixtures/confinedChild.ts", import.meta.url))
  const throughFixture = (script: string, descriptors: ReadonlyArray<number | "ignore">, argument = ""): ChildProcess =>
    spawn(process.execPath, ["--conditions=quintain-source", "--no-warnings", fixture, script, argument], {
      stdio: ["ignore", "pipe", "pipe", ...descriptors]
    })

  it("gets no descriptor that the trainer was started with", async () => {
    const folder = openSync("/", "r")
    try {
      const stdio = Array.from({ length: 40 }, (_, index) => (index === 39 ? folder : ("ignore" as const)))
      const { out } = await output(throughFixture("ls -l /proc/self/fd; ls /proc/self/fd/42/", stdio))
      assert.include(out, "/dev/null")
      assert.notMatch(out, /-> \/$/m)
      assert.notMatch(out, /^(home|root|var|boot)$/m)
    } finally {
      closeSync(folder)
    }
  })

  it("ends with the process that started it", async () => {
    const marker = `quintain-marker-${process.pid}`
    const alive = (): boolean =>
      readdirSync("/proc").some((name) => {
        try {
          return /^\d+$/.test(name) && readFileSync(`/proc/${name}/cmdline`, "latin1").split("\0").includes(marker)
        } catch {
          return false
        }
      })
    const child = throughFixture("echo started; while :; do sleep 1; done", [], marker)
    await new Promise((resolve) => child.stdout!.once("data", resolve))
    assert.isTrue(alive())
    const closed = new Promise((resolve) => child.once("close", resolve))
    child.kill("SIGKILL")
    await closed
    while (alive()) await new Promise((resolve) => setTimeout(resolve, 10))
  })
})

describe.skipIf(!cgroup.available().includes("memory"))("control group", () => {
  it("ends a family that together takes more memory than it may, says so, and leaves nothing", async () => {
    const before = groups()
    const confined = confine(
      shell("for i in 1 2 3 4 5 6; do (x=$(head -c 60000000 /dev/zero | tr '\\0' x); sleep 1) & done; wait", {
        memoryMb: 100
      }),
      confinable ? "bubblewrap" : "process"
    )
    const child = spawn(confined.file, confined.args, {
      ...confined.options,
      stdio: ["ignore", "ignore", "ignore", ...confined.stdio]
    })
    const group = confined.started(child)!
    await new Promise((resolve) => child.once("close", resolve))
    assert.isTrue(group.ranOutOfMemory())
    while (groups().some((name) => !before.includes(name))) await new Promise((resolve) => setTimeout(resolve, 10))
  })
})

/** The groups of this process. */
const groups = (): ReadonlyArray<string> => {
  const walk = (folder: string, depth: number): ReadonlyArray<string> =>
    depth > 5
      ? []
      : readdirSync(folder, { withFileTypes: true })
          .filter((entry) => entry.isDirectory())
          .flatMap((entry) =>
            entry.name.startsWith(`quintain-${process.pid}-`) ? [entry.name] : walk(join(folder, entry.name), depth + 1)
          )
  return walk("/sys/fs/cgroup", 0)
}
