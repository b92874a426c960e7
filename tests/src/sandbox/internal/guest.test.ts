/** The code that runs inside sandboxes, as text: it is whole, parses where it will run, and says the host's limits. */
import { assert, describe, it } from "@effect/vitest"
import { execFileSync, spawnSync } from "node:child_process"
import { readdirSync, readFileSync } from "node:fs"
import { Script } from "node:vm"
import { maxAnswer } from "../../../../src/sandbox/internal/python/process.ts"
import { prelude, type RealmKind } from "../../../../src/sandbox/internal/script/prelude.ts"

const guest = new URL("../../../../src/sandbox/internal/guest/", import.meta.url)
const text = (name: string): string => readFileSync(new URL(name, guest), "utf8")
const kinds: ReadonlyArray<RealmKind> = ["call", "stay", "run", "test"]

describe("JavaScript", () => {
  it("each prelude is one script, without types or imports", () => {
    for (const kind of kinds) {
      // two files that define the same name do not parse
      assert.doesNotThrow(() => new Script(prelude(kind)))
      assert.notMatch(prelude(kind), /^(import|export)\b/m)
    }
  })

  it("every file is part of a prelude", () => {
    const all = kinds.map(prelude).join("\n")
    for (const file of readdirSync(new URL("javascript/", guest)).filter((name) => name !== "loose.ts")) {
      const [, defined] = /^(?:export )?((?:const |operations\.)\w+)[:\s]/m.exec(text(`javascript/${file}`))!
      assert.include(all, defined!, file)
    }
  })
})

/** Parses with warnings as errors; prints names that are used and defined nowhere. */
const check = `
import ast, builtins, sys
source = sys.stdin.read()
compile(source, "guest", "exec", dont_inherit=True)
nodes = list(ast.walk(ast.parse(source)))
known = set(dir(builtins)) | {"__file__"}
for node in nodes:
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load): known.add(node.id)
    elif isinstance(node, ast.arg): known.add(node.arg)
    elif isinstance(node, (ast.FunctionDef, ast.ClassDef)): known.add(node.name)
    elif isinstance(node, ast.alias): known.add(node.asname or node.name)
    elif isinstance(node, ast.ExceptHandler) and node.name: known.add(node.name)
used = {node.id for node in nodes if isinstance(node, ast.Name)}
print(" ".join(sorted(used - known)))`

describe.runIf(spawnSync("python3", ["--version"]).status === 0)("Python", () => {
  const unknown = (name: string): string =>
    execFileSync("python3", ["-I", "-W", "error", "-c", check], { input: text(name), encoding: "utf8" }).trim()

  it("the driver parses and defines what it uses", () => {
    assert.strictEqual(unknown("python/driver.py"), "")
  })

  it("the test runner uses what the driver hands over, and nothing else that it does not define", () => {
    const used = unknown("python/testRunner.py").split(" ")
    const [, handed] = /tools = \{([^}]*)\}/.exec(text("python/driver.py"))!
    const names = [...handed!.matchAll(/'(\w+)':/g)].map(([, name]) => name)
    assert.includeMembers(names, used)
    assert.isAbove(used.length, 3)
  })
})

it("the driver stops an answer at the length at which the host does", () => {
  const [, base, power] = /^ {4}limit = (\d+) \* 2\*\*(\d+)$/m.exec(text("python/driver.py"))!
  assert.strictEqual(Number(base) * 2 ** Number(power), maxAnswer)
})
