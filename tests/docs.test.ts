/** README and docs/: links, commands and the first example are what the repository has. Their code is compiled by package.test.ts. */
import { assert, describe, it } from "@effect/vitest"
import * as fs from "node:fs"
import * as path from "node:path"
import { EngineError, Metrics, Record } from "quintain"
import manifest from "../package.json" with { type: "json" }
import trl from "./fixtures/trl-grpo-options.json" with { type: "json" }
import * as Snippets from "./fixtures/snippets.ts"

const root = path.dirname(import.meta.dirname)
const read = (file: string): string => fs.readFileSync(path.join(root, file), "utf8")
const pages = Snippets.pages(root)

/** GitHub's anchor of a heading. */
const anchor = (heading: string): string =>
  heading
    .trim()
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, "")
    .replaceAll(" ", "-")

const withoutCode = (text: string): string => text.replace(/^```[\s\S]*?^```/gm, "")

const anchors = (file: string): ReadonlyArray<string> =>
  [...withoutCode(read(file)).matchAll(/^#+ (.*)$/gm)].map(([, heading = ""]) => anchor(heading))

/** Links of a page to this repository that lead nowhere. */
const broken = (page: string): ReadonlyArray<string> =>
  [...withoutCode(read(page)).matchAll(/\]\(([^)\s]+)\)/g)].flatMap(([, link = ""]) => {
    if (/^[a-z]+:/.test(link)) return []
    const [target = "", fragment] = link.split("#")
    const file = target === "" ? page : path.join(path.dirname(page), target)
    if (!fs.existsSync(path.join(root, file))) return [`${page}: ${link}`]
    return fragment === undefined || anchors(file).includes(fragment) ? [] : [`${page}: ${link}`]
  })

describe("docs", () => {
  it("links to files and headings that exist", () => {
    assert.deepStrictEqual(pages.flatMap(broken), [])
  })

  it("reaches every page from its index and from llms.txt", () => {
    const docs = pages.filter((page) => page.startsWith("docs/") && page !== "docs/index.md")
    for (const list of ["docs/index.md", "docs/llms.txt"]) {
      const text = read(list)
      assert.deepStrictEqual(
        docs.filter((page) => !text.includes(`(${path.relative("docs", page)})`)),
        [],
        list
      )
    }
  })

  it("names npm scripts and files that exist", () => {
    const missing = pages.flatMap((page) =>
      Snippets.blocks(read(page), ["sh"]).flatMap(({ code, line }) => {
        const scripts = [...code.matchAll(/\bnpm (?:run (?:--silent )?)?([\w:]+)/g)].map(([, name = ""]) => name)
        const known = new Set(["ci", "exec", "install", "pack", ...Object.keys(manifest.scripts)])
        const files = [...code.matchAll(/\b(?:scripts|examples|cli|native)\/[\w/.-]*\w/g)].map(([file]) => file)
        const examples = [...code.matchAll(/\bnpm run example -- (\w+)/g)].map(([, name]) => `examples/${name}.ts`)
        return [
          ...scripts.filter((name) => !known.has(name)),
          ...[...files, ...examples].filter((file) => !fs.existsSync(path.join(root, file)))
        ].map((name) => `${page}:${line}: ${name}`)
      })
    )
    assert.deepStrictEqual(missing, [])
  })

  it("maps every option of TRL's GRPOConfig", () => {
    const page = read("docs/algorithms/from-trl.md")
    assert.deepStrictEqual(
      trl.options.filter((option) => !page.includes(`| \`${option}\` |`)),
      []
    )
  })

  it("lists every metric of a run", () => {
    const page = read("docs/reference/metrics.md")
    assert.deepStrictEqual(
      Metrics.all.filter(({ meaning, name }) => !page.includes(`| \`${name}\` |`) || !page.includes(meaning)),
      []
    )
  })

  it("names every field of a run's record and of a recorded trajectory", () => {
    const page = read("docs/reference/data-formats.md")
    const fields = [
      ...Object.keys(Record.RunRecord.fields),
      ...Object.keys(Record.RunRecord.fields.algorithm.fields),
      ...Object.keys(Record.RunRecord.fields.data.fields),
      ...Object.keys(Record.TrajectoryRecord.fields)
    ]
    assert.deepStrictEqual(
      fields.filter((field) => !page.includes(`\`${field}\``)),
      []
    )
  })

  it("explains every reason of EngineError", () => {
    const page = read("docs/reference/errors.md")
    assert.deepStrictEqual(
      Object.keys(EngineError.Reason.cases).filter((reason) => !page.includes(`\`${reason}\``)),
      []
    )
  })

  it("shows examples/firstRun.ts in README.md as it is", () => {
    const blocks = Snippets.blocks(read("README.md"), ["ts"]).map(({ code }) => `${code}\n`)
    assert.include(blocks, read("examples/firstRun.ts"))
  })
})
