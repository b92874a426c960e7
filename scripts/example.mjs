// Runs a program of examples/ by its name: `npm run example -- lookup 3`. Without a name, lists them.
// Needs the project's own Node: npm scripts find it in node_modules.
import { readdirSync, readFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"

const folder = join(dirname(dirname(fileURLToPath(import.meta.url))), "examples")
const names = readdirSync(folder).flatMap((file) => (file.endsWith(".ts") ? [file.slice(0, -3)] : []))
const [name, ...rest] = process.argv.slice(2)

/** The first sentence of an example's opening comment. */
const summary = (example) => {
  const comment = /^(?:\/\/ |\/\*\*\s+\* )((?:.|\n)*?\.)\s/.exec(readFileSync(join(folder, `${example}.ts`), "utf8"))
  return comment?.[1].replace(/\n(\/\/| \*) /g, " ") ?? ""
}

if (name === undefined || !names.includes(name)) {
  if (name !== undefined) console.error(`example: there is no ${name}.`)
  const width = Math.max(...names.map((example) => example.length))
  console.log("npm run example -- <name> [arguments]\n")
  for (const example of names) console.log(`  ${example.padEnd(width)}  ${summary(example)}`)
  process.exitCode = name === undefined ? 0 : 1
} else {
  const file = join(folder, `${name}.ts`)
  process.argv = [process.argv[0], file, ...rest]
  await import(pathToFileURL(file))
}
