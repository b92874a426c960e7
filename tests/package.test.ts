/**
 * The package as users get it: the exported names (`package.surface.txt`, written by `vitest -u`), the files that `npm
 * pack` takes, and that the packed form works in a project of its own. The snippets of README, docs and docstrings are
 * compiled there too.
 */
import { afterAll, assert, beforeAll, describe, expect, it } from "@effect/vitest"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import * as envs from "quintain/envs"
import * as rewards from "quintain/rewards"
import * as testing from "quintain/rewards/testing"
import * as quintain from "quintain"
import manifest from "../package.json" with { type: "json" }
import * as Packed from "./fixtures/packedProject.ts"
import * as Snippets from "./fixtures/snippets.ts"

const { root, run } = Packed
const entries = { quintain, "quintain/rewards": rewards, "quintain/rewards/testing": testing, "quintain/envs": envs }
const targets = Object.values(manifest.exports).filter((target) => typeof target !== "string")

/** Names of values; a namespace (`export * as Loss`) is opened one level. */
const valueNames = (module: object): Array<string> =>
  Object.entries(module).flatMap(([name, value]: [string, unknown]) =>
    typeof value === "object" && value !== null && Object.prototype.toString.call(value) === "[object Module]"
      ? Object.keys(value).map((inner) => `${name}.${inner}`)
      : [name]
  )

/** Names of types, which leave no trace at run time: read from the declarations that tsc wrote. */
const typeNames = (file: string, prefix = ""): Array<string> => {
  const text = fs.readFileSync(file, "utf8")
  const next = (specifier: string) => path.join(path.dirname(file), specifier.replace(/\.[jt]s$/, ".d.ts"))
  const own = [...text.matchAll(/^export (?:declare )?(?:interface|type) (\w+)/gm)].map(([, name]) => prefix + name)
  const listed = [...text.matchAll(/^export type \{([^}]*)\}/gm)].flatMap(([, names = ""]) =>
    names
      .split(",")
      .map((name) => name.trim().split(" as ").at(-1) ?? "")
      .filter((name) => name !== "")
      .map((name) => prefix + name)
  )
  const spaces = [...text.matchAll(/^export \* as (\w+) from "(\.[^"]+)"/gm)].flatMap(([, name, from = ""]) =>
    typeNames(next(from), `${name}.`)
  )
  const stars = [...text.matchAll(/^export \* from "(\.[^"]+)"/gm)].flatMap(([, from = ""]) =>
    typeNames(next(from), prefix)
  )
  return [...own, ...listed, ...spaces, ...stars]
}

let packed: Packed.PackedProject

beforeAll(() => {
  packed = Packed.make()
}, 600_000)

afterAll(() => Packed.remove(packed))

describe("public surface", () => {
  it("is what package.surface.txt lists", async () => {
    const text = Object.entries(entries).map(([name, module]) => {
      const declarations = targets.find(({ types }) =>
        types.includes(name === "quintain" ? "dist/src/" : name.slice(9))
      )
      const values = valueNames(module)
      // A class, and a constant beside a type of its name, are listed once, as values.
      const types = typeNames(path.join(root, declarations?.types ?? "")).filter((type) => !values.includes(type))
      const lines = [...values, ...types.map((type) => `${type} (type)`)]
      return `${name}\n${lines
        .toSorted()
        .map((line) => `  ${line}\n`)
        .join("")}`
    })
    await expect(text.join("\n")).toMatchFileSnapshot("package.surface.txt")
  })
})

describe("package", () => {
  it("has what the export map names, in the source and in what is packed", () => {
    for (const target of targets) {
      for (const file of Object.values(target)) {
        assert.isTrue(fs.existsSync(path.join(root, file)), file)
        assert.include(packed.files, file.slice(2))
      }
    }
  })

  it("packs the native addon, its sources and how to build it, and nothing that is not needed", () => {
    assert.include(packed.files, `native/prebuilt/quintain.${process.platform}-${process.arch}.node`)
    for (const file of ["LICENSE", "README.md", "scripts/build-native.mjs", "native/Cargo.toml", "native/Cargo.lock"]) {
      assert.include(packed.files, file)
    }
    for (const crate of ["core", "binding"]) {
      assert.include(packed.files, `native/${crate}/Cargo.toml`)
      assert.include(packed.files, `native/${crate}/src/lib.rs`)
    }
    const stray = packed.files.filter((file) =>
      /^(tests|examples|runs|native\/target|\.)|\.(log|tgz|tsbuildinfo|new)$/.test(file)
    )
    assert.deepStrictEqual(stray, [])
  })

  it("pins its dependencies", () => {
    for (const [name, version] of Object.entries({
      ...manifest.dependencies,
      ...manifest.optionalDependencies,
      ...manifest.devDependencies
    })) {
      assert.match(version, /^\d+\.\d+\.\d+(-\d+)?$/, name)
    }
  })

  it("exports the same names from dist, imported by plain Node in a project of its own", () => {
    const names = Object.keys(entries)
    const program = `
      const out = []
      for (const name of ${JSON.stringify(names)}) out.push(Object.keys(await import(name)).toSorted())
      console.log(JSON.stringify({ out, from: import.meta.resolve("quintain") }))`
    const { from, out } = JSON.parse(
      run(process.execPath, ["--input-type=module", "--eval", program], packed.project)
    ) as { from: string; out: unknown }
    assert.match(from, /node_modules\/quintain\/dist\/src\/index\.js$/)
    assert.deepStrictEqual(
      out,
      Object.values(entries).map((module) => Object.keys(module).toSorted())
    )
  })

  it("opens its native engine from dist", () => {
    const program = `
      import * as Effect from "effect/Effect"
      import { Policy, PolicyNative } from "quintain"
      const model = {
        vocab_size: 16, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64
      }
      const info = Policy.Policy.pipe(Effect.map((policy) => policy.info), Effect.provide(PolicyNative.layer({ model })))
      console.log(JSON.stringify(await Effect.runPromise(info)))`
    const out = run(process.execPath, ["--input-type=module", "--eval", program], packed.project)
    assert.isObject(JSON.parse(out))
  })

  it("opens its engine on ONNX Runtime from dist, in a worker and in a process that measures", () => {
    const program = `
      import { PolicyOnnx, Session } from "quintain"
      import * as Effect from "effect/Effect"
      const model = { vocab_size: 16, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16 }
      const session = await Session.open({ model, seed: 1, engine: "onnx", device: "cpu" })
      const key = { seed: 1, stream: "a", index: 0 }
      const [sample] = await session.sample({ prompt: Uint32Array.of(1), count: 1, maxTokens: 3, key })
      await session.close()
      const [report] = await Effect.runPromise(PolicyOnnx.report({ model, executionProviders: ["cpu"] }))
      console.log(sample.tokens.length, report.refused ?? report.graphs.length > 0)`
    const out = run(process.execPath, ["--input-type=module", "--eval", program], packed.project)
    assert.strictEqual(out.trim(), "3 true")
  })

  it("runs a verifier of the project in a worker, from dist", () => {
    const { project } = packed
    fs.writeFileSync(path.join(project, "proof.js"), "export const proof = ({ task }) => task.data.score\n")
    fs.writeFileSync(
      path.join(project, "pool.js"),
      `import * as Effect from "effect/Effect"
      import { Verifier, VerifierPool, WorkerPool } from "quintain"
      const proof = Verifier.worker({ module: new URL("./proof.js", import.meta.url), export: "proof" })
      const task = { id: "a", prompt: "", data: { score: 0.75 } }
      const trajectory = { taskId: "a", index: 0, tokens: new Uint32Array(0), text: "", turns: [], info: {}, metrics: {} }
      const verdict = VerifierPool.VerifierPool.use((pool) => pool.call(proof, { task, trajectory })).pipe(
        Effect.provide(WorkerPool.layer({ workers: 1 }))
      )
      console.log(await Effect.runPromise(verdict))\n`
    )
    assert.strictEqual(run(process.execPath, ["pool.js"], project).trim(), "0.75")
  })

  it("runs model-written code in its sandboxes, from dist", () => {
    const program = `
      import { Sandboxes } from "quintain/rewards"
      for (const [language, source] of [["javascript", "const f = (a) => structuredClone([a])"], ["python", "def f(a): return [a]"]]) {
        const sandbox = Sandboxes.make({ language, isolation: "process" })
        const candidate = { source, language }
        const outcome = await sandbox.call(candidate, { entry: "f", calls: [[1]] }).catch((fault) => fault)
        console.log(JSON.stringify(outcome.results ?? outcome.found))
        await sandbox.close()
      }`
    const out = run(process.execPath, ["--input-type=module", "--eval", program], packed.project)
    const [script, python] = out.trim().split("\n")
    assert.strictEqual(script, '[{"status":"value","value":[1]}]')
    assert.include([script, '"no interpreter"'], python)
  })

  it("gives a strict TypeScript project its types", () => {
    const imports = Object.keys(entries).map((name, index) => `import * as m${index} from "${name}"`)
    fs.writeFileSync(path.join(packed.project, "use.ts"), `${imports.join("\n")}\nexport const all = [m0, m1, m2]\n`)
    assert.strictEqual(compile(["use.ts"]), "")
  })
})

/** Returns the type checker's output for files of the consumer's project. */
const compile = (files: ReadonlyArray<string>): string => {
  const flags =
    "--strict --noEmit --module nodenext --target esnext --lib esnext --allowImportingTsExtensions --types node --skipLibCheck"
  const tsc = path.join(root, "node_modules/typescript/bin/tsc")
  const { stdout } = spawnSync(process.execPath, [tsc, ...flags.split(" "), ...files], {
    cwd: packed.project,
    encoding: "utf8",
    timeout: 300_000
  })
  return stdout
}

describe("snippets", () => {
  it("of README, docs and docstrings compile against the package", () => {
    const ofPages = Snippets.ofPages(root)
    const ofDocstrings = Snippets.ofDocstrings(root, Snippets.importsOf(root))
    // An extractor that finds nothing would pass.
    assert.isAbove(ofPages.length, 25)
    assert.isAbove(ofDocstrings.length, 50)
    const snippets = [...ofPages, ...ofDocstrings]
    const { files, places } = Snippets.write(root, path.join(packed.project, "snippets"), snippets)
    assert.strictEqual(places(compile(files)), "")
  })
})
