import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { spawn } from "node:child_process"
import * as fc from "fast-check"
import * as crypto from "node:crypto"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import * as Hub from "../../../src/model/Hub.ts"
import { faultOfPath } from "../../../src/model/internal/hub/name.ts"
import { readSettings } from "../../../src/model/internal/hub/settings.ts"
import * as Progress from "../../../src/run/Progress.ts"
import { type Exchange, gitHash, type HubRepo, listing, serveHub, sha256 } from "../../fixtures/hubServer.ts"

const COMMIT = "c0ffee".padEnd(40, "0")
const weights = crypto.createHash("shake256", { outputLength: 400_000 }).update("weights").digest()
const repo: HubRepo = {
  commit: COMMIT,
  refs: ["refs/pr/1", "v1"],
  files: {
    "config.json": '{"model_type":"llama"}',
    "tokenizer.json": "{}",
    "chat_template.jinja": "{{ messages }}",
    "README.md": "not needed",
    "pytorch_model.bin": "pickle",
    "onnx/model.onnx": "not needed",
    "model.safetensors": weights
  }
}

const folder = Effect.acquireRelease(
  Effect.promise(() => fs.mkdtemp(path.join(os.tmpdir(), "quintain-hub-"))),
  (made) => Effect.promise(() => fs.rm(made, { recursive: true, force: true }))
)

/** A server and an empty cache; `get` fetches `org/tiny` with quick retries. */
const scene = Effect.fnUntraced(function* (
  repos: Readonly<Record<string, HubRepo>>,
  meddle?: (exchange: Exchange) => boolean
) {
  const cache = yield* folder
  const server = yield* Effect.acquireRelease(
    Effect.promise(() => serveHub(repos, meddle)),
    (server) => Effect.promise(() => server.close())
  )
  const notes: Array<string> = []
  const progress: Progress.Transfer = { bytes: () => {}, note: (text) => notes.push(text), end: () => {} }
  const options: Hub.HubOptions = { cache, endpoint: server.endpoint, env: {}, pause: 0.001, progress }
  const get = (text = "org/tiny", more: Hub.HubOptions = {}) => Hub.snapshot(text, { ...options, ...more })
  const refused = (text?: string, more?: Hub.HubOptions) => Effect.flip(get(text, more))
  return { cache, server, notes, get, refused }
})

/** The same in a process of its own. */
const inProcess = (cache: string, endpoint: string) => {
  const script = `
    import * as Effect from "effect/Effect"
    import * as Hub from ${JSON.stringify(new URL("../../../src/model/Hub.ts", import.meta.url).href)}
    const { path } = await Effect.runPromise(Hub.snapshot("org/tiny", { cache: process.argv[1], endpoint: process.argv[2], env: {} }))
    process.stdout.write(path)`
  const flags = ["--conditions=quintain-source", "--input-type=module", "-e", script, cache, endpoint]
  const child = spawn(process.execPath, flags, { stdio: ["ignore", "pipe", "inherit"] })
  const path = new Promise<string>((done) => {
    let out = ""
    child.stdout.on("data", (chunk) => (out += chunk))
    child.on("close", () => done(out))
  })
  return { child, path }
}

/** Waits until a file of this blob's, whole or not, has so many bytes. */
const arrived = async (cache: string, hash: string, size: number): Promise<void> => {
  const folder = path.join(cache, "models--org--tiny", "blobs")
  for (;;) {
    for (const name of await fs.readdir(folder).catch(() => [] as Array<string>)) {
      if (name.startsWith(hash) && (await fs.stat(path.join(folder, name))).size === size) return
    }
    await new Promise((done) => setTimeout(done, 5))
  }
}

const read = (...parts: ReadonlyArray<string>) => Effect.promise(() => fs.readFile(path.join(...parts)))
const blobs = (cache: string) => Effect.promise(() => fs.readdir(path.join(cache, "models--org--tiny", "blobs")))
const downloads = (server: { readonly log: ReadonlyArray<{ readonly path: string; readonly host: string }> }) =>
  server.log.filter(({ path }) => path.includes("/resolve/"))

describe("Hub names", () => {
  it("reads names, revisions and files", () => {
    assert.deepStrictEqual(Hub.parseName("org/name"), { repo: "org/name", revision: "main", file: undefined })
    assert.deepStrictEqual(Hub.parseName("a-b/c.d_1@refs/pr/1"), {
      repo: "a-b/c.d_1",
      revision: "refs/pr/1",
      file: undefined
    })
    assert.deepStrictEqual(Hub.parseName("o/n@v1:q/model-Q4_1.gguf")!.file, "q/model-Q4_1.gguf")
    for (const text of [
      "name",
      "",
      "./a/b",
      "/a/b",
      "../b",
      "a/..",
      "a/b/c",
      "a\\b/c",
      "o/n@",
      "o/n@../x",
      "o/n@a//b",
      "o/n:x.bin",
      "o/n:../x.gguf",
      "o/n--m",
      "o/n\u0000",
      "https://x/y"
    ]) {
      assert.isUndefined(Hub.parseName(text), text)
    }
  })
})

describe("names of files", () => {
  it("that are let through stay in their folder, on any platform", () => {
    const part = fc.constantFrom("..", ".", "", "a", "C:", "a b", "\\", "\u0000", "model.safetensors")
    const name = fc.oneof(
      fc.string({ unit: "binary" }),
      fc.array(part).map((parts) => parts.join("/"))
    )
    fc.assert(
      fc.property(name, (name) => {
        if (faultOfPath(name) !== undefined) return
        for (const { resolve, sep } of [path.posix, path.win32]) {
          const root = sep === "/" ? "/cache/snapshots/x" : "C:\\cache\\snapshots\\x"
          assert.isTrue(resolve(root, name).startsWith(root + sep), JSON.stringify(name))
        }
      })
    )
  })
})

describe("Hub.snapshot", () => {
  it.live("fetches what a model needs into the standard layout, and nothing else", () =>
    Effect.gen(function* () {
      const { cache, get, server } = yield* scene({ "org/tiny": repo })
      const found = yield* get("org/tiny@refs/pr/1")
      const home = path.join(cache, "models--org--tiny")
      assert.strictEqual(found.commit, COMMIT)
      assert.strictEqual(found.path, path.join(home, "snapshots", COMMIT))
      const names = yield* Effect.promise(() => fs.readdir(found.path))
      assert.deepStrictEqual(names.toSorted(), [
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json"
      ])
      assert.strictEqual((yield* read(home, "refs", "refs/pr/1")).toString(), COMMIT)
      assert.isTrue(weights.equals(yield* read(found.path, "model.safetensors")))
      const target = yield* Effect.promise(() => fs.readlink(path.join(found.path, "model.safetensors")))
      assert.strictEqual(target, `../../blobs/${sha256(weights)}`)
      const config = yield* Effect.promise(() => fs.readlink(path.join(found.path, "config.json")))
      assert.strictEqual(config, `../../blobs/${gitHash(Buffer.from(repo.files["config.json"] as string))}`)
      assert.lengthOf(yield* blobs(cache), 4)
      const before = downloads(server).length
      yield* get("org/tiny@refs/pr/1")
      assert.lengthOf(downloads(server), before)
    })
  )

  it.live("uses the cache offline, of a commit, and when the Hub is not reached", () =>
    Effect.gen(function* () {
      const { get, notes, refused, server } = yield* scene({ "org/tiny": repo })
      const missing = yield* refused("org/tiny", { offline: true })
      assert.strictEqual(missing.code, "OFFLINE")
      assert.match(missing.remedy, /hf download org\/tiny/)
      const online = yield* get()
      const count = server.log.length
      assert.deepStrictEqual(yield* get("org/tiny", { env: { HF_HUB_OFFLINE: "1" } }), online)
      assert.strictEqual((yield* get(`org/tiny@${COMMIT}`)).path, online.path)
      assert.lengthOf(server.log, count)
      yield* Effect.promise(() => server.close())
      assert.deepStrictEqual(yield* get(), online)
      assert.match(notes.join(), /was not reached.*Using the copy/)
      assert.strictEqual((yield* refused("org/tiny@v1")).code, "UNREACHABLE")
    })
  )

  it.live("does not take a part of a model for the model", () =>
    Effect.gen(function* () {
      const { get, refused } = yield* scene({ "org/tiny": repo })
      const { path: at } = yield* get()
      yield* Effect.promise(() => fs.rm(path.join(at, "model.safetensors")))
      const error = yield* refused("org/tiny", { offline: true })
      assert.match(error.detail, /lacks model.safetensors/)
    })
  )

  it.live("fetches the shards that an index names, and one GGUF where it is asked for", () =>
    Effect.gen(function* () {
      const index = JSON.stringify({
        weight_map: { a: "model-00001-of-00002.safetensors", b: "model-00002-of-00002.safetensors" }
      })
      const files = {
        "config.json": "{}",
        "model.safetensors.index.json": index,
        "model-00001-of-00002.safetensors": "one",
        "model-00002-of-00002.safetensors": "two",
        "stray.safetensors": "not of the index",
        "q/model-Q4_1.gguf": "GGUF"
      }
      const { get, refused } = yield* scene({ "org/tiny": { commit: COMMIT, files } })
      const gguf = yield* get("org/tiny:q/model-Q4_1.gguf")
      assert.strictEqual((yield* read(gguf.path)).toString(), "GGUF")
      assert.deepStrictEqual(yield* Effect.promise(() => fs.readdir(path.dirname(path.dirname(gguf.path)))), ["q"])
      const { path: at } = yield* get()
      assert.lengthOf(yield* Effect.promise(() => fs.readdir(at)), 5)
      assert.match((yield* refused("org/tiny:none.gguf")).message, /no none\.gguf.*org\/tiny@main:q\/model-Q4_1\.gguf/)
    })
  )

  it.live("continues a download that broke midway, and one that another process left", () =>
    Effect.gen(function* () {
      let breaks = 2
      let before = 100_000
      const { cache, get, refused, server } = yield* scene({ "org/tiny": repo }, ({ body, host, response }) => {
        if (host !== "cdn" || body === undefined || body.length < 1000 || breaks-- <= 0) return false
        response.writeHead(206, { "content-length": body.length })
        response.write(body.subarray(0, before), () => setTimeout(() => response.destroy(), 20))
        return true
      })
      const { path: at } = yield* get()
      assert.isTrue(weights.equals(yield* read(at, "model.safetensors")))
      const ranges = server.log.filter(({ host }) => host === "cdn").flatMap(({ range }) => range ?? [])
      assert.isTrue(
        ranges.some((range) => /^bytes=[1-9]\d*-399999$/.test(range)),
        ranges.join()
      )

      const hash = sha256(weights)
      const blob = path.join(cache, "models--org--tiny", "blobs", hash)
      yield* Effect.promise(async () => {
        await fs.rm(path.join(at, "model.safetensors"))
        await fs.rm(blob)
        // Python's name for it, untouched for long.
        await fs.writeFile(`${blob}.incomplete`, weights.subarray(0, 300_000))
        await fs.utimes(`${blob}.incomplete`, 1, 1)
      })
      server.log.length = 0
      yield* get()
      assert.isTrue(server.log.some(({ range }) => range === "bytes=300000-399999"))
      assert.isTrue(weights.equals(yield* read(at, "model.safetensors")))

      // One that somebody may be writing to is left alone; a wrong one is thrown away.
      yield* Effect.promise(async () => {
        await fs.rm(path.join(at, "model.safetensors"))
        await fs.rm(blob)
        await fs.writeFile(`${blob}.incomplete`, "somebody's")
      })
      yield* get()
      assert.strictEqual((yield* read(`${blob}.incomplete`)).toString(), "somebody's")
      yield* Effect.promise(async () => {
        await fs.rm(path.join(at, "model.safetensors"))
        await fs.rm(blob)
        await fs.utimes(`${blob}.incomplete`, 1, 1)
      })
      yield* get()
      assert.isTrue(weights.equals(yield* read(at, "model.safetensors")))
      assert.isFalse((yield* blobs(cache)).some((name) => name.includes("incomplete")))

      ;[breaks, before] = [Infinity, 1000]
      yield* Effect.promise(async () => {
        await fs.rm(path.join(at, "model.safetensors"))
        await fs.rm(blob)
      })
      const broken = yield* refused()
      assert.strictEqual(broken.operation, "download model.safetensors")
      assert.match(broken.detail, /connection (broke|ended) after \d+ of 400000 bytes/)
    })
  )

  it.live("starts anew where the server does not know ranges", () =>
    Effect.gen(function* () {
      const { cache, get } = yield* scene({ "org/tiny": repo }, ({ body, host, request, response }) => {
        if (host !== "cdn" || body === undefined || request.headers.range === "bytes=0-0") return false
        response.writeHead(200, { "content-length": weights.length }).end(weights)
        return true
      })
      const blob = path.join(cache, "models--org--tiny", "blobs", sha256(weights))
      yield* Effect.promise(async () => {
        await fs.mkdir(path.dirname(blob), { recursive: true })
        await fs.writeFile(`${blob}.incomplete`, weights.subarray(0, 300_000))
        await fs.utimes(`${blob}.incomplete`, 1, 1)
      })
      const { path: at } = yield* get()
      assert.isTrue(weights.equals(yield* read(at, "model.safetensors")))
    })
  )

  it.live("is interrupted, keeps what came, and continues", () =>
    Effect.gen(function* () {
      let stall = true
      const closed = Promise.withResolvers<void>()
      const { cache, get, server } = yield* scene({ "org/tiny": repo }, ({ body, host, response }) => {
        if (!stall || host !== "cdn" || body === undefined || body.length < 1000) return false
        response.writeHead(200, { "content-length": body.length })
        response.write(body.subarray(0, 200_000))
        response.on("close", () => closed.resolve())
        return true
      })
      const fiber = yield* Effect.forkChild(get())
      yield* Effect.promise(() => arrived(cache, sha256(weights), 200_000))
      yield* Fiber.interrupt(fiber)
      yield* Effect.promise(() => closed.promise)
      stall = false
      server.log.length = 0
      yield* get()
      assert.isTrue(server.log.some(({ range }) => range === "bytes=200000-399999"))
    })
  )

  it.live("continues at once what a process left that was killed", () =>
    Effect.gen(function* () {
      let stall = true
      const { cache, get, server } = yield* scene({ "org/tiny": repo }, ({ body, host, response }) => {
        if (!stall || host !== "cdn" || body === undefined || body.length < 1000) return false
        response.writeHead(200, { "content-length": body.length })
        response.write(body.subarray(0, 150_000))
        return true
      })
      const { child, path: ended } = inProcess(cache, server.endpoint)
      yield* Effect.promise(() => arrived(cache, sha256(weights), 150_000))
      child.kill("SIGKILL")
      yield* Effect.promise(() => ended)
      stall = false
      server.log.length = 0
      const { path: at } = yield* get()
      assert.isTrue(server.log.some(({ range }) => range === "bytes=150000-399999"))
      assert.isTrue(weights.equals(yield* read(at, "model.safetensors")))
      assert.lengthOf(yield* blobs(cache), 4)
    })
  )

  it.live("two processes at once both get it whole", () =>
    Effect.gen(function* () {
      const { cache, server } = yield* scene({ "org/tiny": repo })
      const run = Effect.promise(() => inProcess(cache, server.endpoint).path)
      const [first, second] = yield* Effect.all([run, run], { concurrency: 2 })
      assert.strictEqual(first, second)
      assert.isTrue(weights.equals(yield* read(first, "model.safetensors")))
      assert.lengthOf(yield* blobs(cache), 4)
    })
  )

  it.live("refuses contents that do not hash to what was announced", () =>
    Effect.gen(function* () {
      const wrong = Buffer.from(weights).fill(0, 5, 9)
      const { cache, refused } = yield* scene({ "org/tiny": repo }, ({ body, host, request, response }) => {
        if (host !== "cdn" || body === undefined || request.headers.range !== undefined) return false
        response.writeHead(200, { "content-length": wrong.length }).end(wrong)
        return true
      })
      const error = yield* refused()
      assert.strictEqual(error.code, "HASH")
      assert.notInclude(yield* blobs(cache), sha256(weights))
      assert.isFalse((yield* blobs(cache)).some((name) => name.includes("incomplete")))
    })
  )

  it.live("refuses more bytes than were announced, and other sizes than the listing's", () =>
    Effect.gen(function* () {
      let lie: "body" | "head" = "body"
      const { refused } = yield* scene({ "org/tiny": repo }, ({ body, host, request, response }) => {
        if (host !== "cdn" || body === undefined) return false
        if (lie === "body" && request.headers.range === undefined) {
          response.writeHead(200).end(Buffer.concat([body, body, body]))
          return true
        }
        if (lie === "head") {
          response.writeHead(206, { "content-range": `bytes 0-0/${2 ** 45}`, etag: '"x"' }).end("x")
          return true
        }
        return false
      })
      assert.strictEqual((yield* refused()).code, "SIZE")
      lie = "head"
      assert.strictEqual((yield* refused()).code, "SIZE")
    })
  )

  for (const name of [
    "../../../evil.safetensors",
    "/etc/evil.json",
    "a\\..\\evil.json",
    "C:evil.json",
    "a//b.json",
    "a\u0000b.json"
  ]) {
    it.live(`refuses a listing with ${JSON.stringify(name)}`, () =>
      Effect.gen(function* () {
        const { cache, refused } = yield* scene({ "org/tiny": repo }, ({ response, url }) => {
          if (!url.pathname.includes("/tree/")) return false
          const [entry] = listing(repo)
          response.writeHead(200).end(JSON.stringify([...listing(repo), { ...entry, path: name }]))
          return true
        })
        assert.strictEqual((yield* refused()).code, "FILENAME")
        assert.deepStrictEqual(yield* Effect.promise(() => fs.readdir(cache)), [])
      })
    )
  }

  it.live("refuses what is not an answer of a hub", () =>
    Effect.gen(function* () {
      const answers: Record<string, unknown> = {}
      const { refused } = yield* scene({ "org/tiny": repo }, ({ response, url }) => {
        const key = url.pathname.includes("/tree/") ? "tree" : url.pathname.includes("/revision/") ? "revision" : ""
        if (!(key in answers)) return false
        const answer = answers[key]
        response.writeHead(200).end(typeof answer === "string" ? answer : JSON.stringify(answer))
        return true
      })
      const [entry] = listing(repo)
      for (const [key, answer] of [
        ["revision", { sha: "../../x" }],
        ["revision", null],
        ["revision", "<html>"],
        ["tree", { error: 1 }],
        ["tree", [{ ...entry, oid: "../../../x" }]],
        ["tree", [{ ...entry, size: -1 }]],
        ["tree", [{ ...entry, size: 1e300 }]],
        ["tree", [null]]
      ] as const) {
        for (const old of Object.keys(answers)) delete answers[old]
        answers[key] = answer
        assert.strictEqual((yield* refused()).code, "PROTOCOL", JSON.stringify(answer))
      }
    })
  )

  it.live("says what to do about pickles, missing shards and missing configurations", () =>
    Effect.gen(function* () {
      const make = (files: HubRepo["files"]): HubRepo => ({ commit: COMMIT, files })
      const { refused } = yield* scene({
        "org/pickle": make({ "config.json": "{}", "pytorch_model.bin": "x" }),
        "org/gguf": make({ "model-Q8_0.gguf": "x" }),
        "org/shards": make({
          "config.json": "{}",
          "model.safetensors.index.json": '{"weight_map":{"a":"../../x.safetensors"}}'
        }),
        "org/cyclic": make({
          "config.json": "{}",
          "model.safetensors.index.json": '{"weight_map":{"a":"model.safetensors.index.json"}}'
        })
      })
      for (const [name, expected] of [
        ["org/pickle", /no safetensors.*run code/],
        ["org/gguf", /no config\.json.*org\/gguf@main:model-Q8_0\.gguf/],
        ["org/shards", /names.*x\.safetensors/],
        ["org/cyclic", /names.*index\.json/]
      ] as const) {
        const error = yield* refused(name)
        assert.strictEqual(error.code, "UNSUPPORTED")
        assert.match(error.message, expected)
      }
    })
  )

  it.live("sends the token to the endpoint alone, and says when one is needed", () =>
    Effect.gen(function* () {
      const { cache, get, refused, server } = yield* scene({
        "org/tiny": { ...repo, token: "any-shape", gated: true },
        "org/private": { ...repo, token: "any-shape" }
      })
      const gated = yield* refused()
      assert.deepStrictEqual([gated.code, gated.status], ["GATED", 401])
      assert.match(gated.remedy, /Ask for access at .*org\/tiny, then set HF_TOKEN/)
      assert.deepStrictEqual((yield* refused("org/tiny", { token: "other" })).status, 403)
      const hidden = yield* refused("org/private")
      assert.match(hidden.remedy, /Check the name; if it is private or gated, set HF_TOKEN/)
      assert.strictEqual((yield* refused("org/private", { token: "other" })).code, "NOT_FOUND")
      yield* Effect.promise(() => fs.writeFile(path.join(cache, "token"), "any-shape\n"))
      server.log.length = 0
      yield* get("org/tiny", { env: { HF_HOME: cache } })
      const sent = (host: string) =>
        new Set(server.log.filter((one) => one.host === host).map((one) => one.authorization))
      assert.deepStrictEqual(sent("hub"), new Set(["Bearer any-shape"]))
      assert.deepStrictEqual(sent("cdn"), new Set([undefined]))
    })
  )

  it.live("names the status and what to check", () =>
    Effect.gen(function* () {
      const { refused } = yield* scene({ "org/tiny": repo })
      const none = yield* refused("org/none", { token: "t" })
      assert.deepStrictEqual([none.code, none.status], ["NOT_FOUND", 404])
      assert.match(none.message, /org\/none@main.*Check the name/)
      assert.match((yield* refused("org/tiny@none", { token: "t" })).remedy, /revision/)
      assert.strictEqual((yield* refused("nonsense")).code, "NAME")
      assert.match((yield* refused("org/tiny", { endpoint: "nonsense" })).remedy, /HF_ENDPOINT/)
    })
  )

  it.live("waits as long as a busy server asks, but not for ever", () =>
    Effect.gen(function* () {
      let busy = 2
      let wait = "0"
      const { get, refused } = yield* scene({ "org/tiny": repo }, ({ response, url }) => {
        if (!url.pathname.includes("/revision/") || busy-- <= 0) return false
        response.writeHead(429, { "retry-after": wait }).end("slow down")
        return true
      })
      yield* get()
      ;[busy, wait] = [Infinity, "0"]
      const limited = yield* refused("org/tiny@v1")
      assert.deepStrictEqual([limited.code, limited.status], ["RATE_LIMITED", 429])
      ;[busy, wait] = [1, "86400"]
      assert.strictEqual((yield* refused("org/tiny@v1")).retryAfter, 86400)
    })
  )

  it.live("every wait has a deadline that says what was awaited", () =>
    Effect.gen(function* () {
      let silent: "head" | "body" = "head"
      const { refused } = yield* scene({ "org/tiny": repo }, ({ body, host, response }) => {
        if (silent === "head") return true
        if (host !== "cdn" || body === undefined || body.length < 1000) return false
        response.writeHead(200, { "content-length": body.length })
        response.write(body.subarray(0, 10))
        return true
      })
      const head = yield* refused("org/tiny", { deadline: 30 })
      assert.strictEqual(head.code, "TIMEOUT")
      assert.match(head.detail, /an answer of 127\.0\.0\.1.* more than 30 ms/)
      silent = "body"
      const body = yield* refused("org/tiny", { deadline: 500 })
      assert.match(body.detail, /the next bytes of model\.safetensors took more than 500 ms/)
    })
  )
})

describe("Hub settings", () => {
  it("come from the variables of Hugging Face's tools, in their order", async () => {
    const home = await fs.mkdtemp(path.join(os.tmpdir(), "quintain-hub-"))
    await fs.writeFile(path.join(home, "token"), " from-file\n")
    const of = (env: Record<string, string>) => readSettings(env, {})
    assert.deepStrictEqual(await of({ HF_HOME: home }), {
      endpoint: "https://huggingface.co",
      cache: path.join(home, "hub"),
      token: "from-file",
      offline: false
    })
    const all = await of({
      HF_HOME: home,
      HF_HUB_CACHE: "/c",
      HF_TOKEN: "t",
      HF_ENDPOINT: "http://m/",
      HF_HUB_OFFLINE: "YES"
    })
    assert.deepStrictEqual(all, { endpoint: "http://m", cache: "/c", token: "t", offline: true })
    assert.strictEqual((await of({ XDG_CACHE_HOME: "/x" })).cache, "/x/huggingface/hub")
    assert.strictEqual((await of({})).cache, path.join(os.homedir(), ".cache/huggingface/hub"))
    await fs.rm(home, { recursive: true })
  })
})

describe("Progress.transfer", () => {
  it("is one line on a terminal and nothing elsewhere", () => {
    const shown = (isTTY: boolean) => {
      const lines: Array<string> = []
      const output = { isTTY, write: (text: string) => lines.push(text) > 0 } as unknown as NodeJS.WriteStream
      let time = 0
      const progress = Progress.transfer({ label: "m", output, now: () => time++ })
      progress.bytes({ received: 0, total: 270_000_000 })
      progress.bytes({ received: 90_000_000, total: 270_000_000 })
      progress.end()
      return lines
    }
    assert.deepStrictEqual(shown(false), [])
    assert.include(shown(true).join(), "90.0 MB of 270 MB  90.0 MB/s  2 s left")
    assert.deepStrictEqual([0, 999, 1500, 99_950_000, 1e15].map(Progress.amount), [
      "0 bytes",
      "999 bytes",
      "1.50 kB",
      "100 MB",
      "1000 TB"
    ])
  })
})
