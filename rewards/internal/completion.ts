/**
 * Code, out of what models write: fenced blocks among prose, behind thoughts, unclosed, nested, several at once. Every
 * function here reads its text a bounded number of times, whatever the text.
 */
import type { Language } from "../../src/sandbox/Sandbox.ts"

export interface Block {
  /** Content from here... */
  readonly start: number
  /** ...to here, as offsets in the text. */
  readonly end: number
  /** First word after the fence, in lower case; empty for none. */
  readonly label: string
  /** Columns by which the fence is indented, as in a list: those of its content too. */
  readonly indent: number
  readonly closed: boolean
}

export interface Code {
  /** A part of the completion, as it stands there. */
  readonly source: string
  /** As the fence names it; `undefined`: it names none that runs here. */
  readonly language: Language | undefined
  /** Columns to take off every line: see {@link dedent}. */
  readonly indent: number
  readonly fenced: boolean
}

export interface Wanted {
  /** Name that the code has to define. */
  readonly entry?: string | undefined
  /** Preferred where no block defines the entry. */
  readonly languages?: ReadonlyArray<Language>
}

const languages: ReadonlyMap<string, Language> = new Map([
  ...["js", "javascript", "mjs", "cjs", "node", "nodejs", "ecmascript"].map((label) => [label, "javascript"] as const),
  ...["ts", "typescript", "mts", "cts"].map((label) => [label, "typescript"] as const),
  ...["py", "python", "python3", "py3", "python2", "ipython", "cpython"].map((label) => [label, "python"] as const)
])

/** Labels of blocks that hold no program for the sandbox. */
const foreign = new Set(
  (
    "bash sh shell zsh fish console terminal cmd powershell text txt plain plaintext output stdout log json jsonc json5 " +
    "yaml yml toml xml html css scss sql diff patch ini csv latex tex math rust rs go golang java c cpp c++ h hpp cs c# " +
    "csharp ruby rb php kotlin swift scala r julia lua perl haskell pycon doctest"
  ).split(" ")
)

/** Labels of blocks that hold text with blocks in it. */
const containers = new Set(["", "md", "markdown", "mdx"])

interface Fence {
  readonly character: string
  readonly length: number
  readonly indent: number
  /** The rest of the fence's line. */
  readonly info: string
}

/** A tab counts as 4 columns. */
const readFence = (text: string, start: number, end: number): Fence | undefined => {
  let at = start
  let indent = 0
  for (; at < end; at++) {
    if (text[at] === " ") indent++
    else if (text[at] === "\t") indent += 4
    else break
  }
  const character = text[at]
  if (character !== "`" && character !== "~") return undefined
  const first = at
  while (at < end && text[at] === character) at++
  if (at - first < 3) return undefined
  const info = text.slice(at, end).trim()
  // three backticks around something on one line are a code span
  if (character === "`" && info.includes("`")) return undefined
  return { character, length: at - first, indent, info }
}

const labelOf = (info: string): string =>
  (/[\w+#-]+/.exec(info.slice(0, 100))?.[0] ?? "").toLowerCase().replace(/^lang(?:uage)?-/, "")

interface Open {
  readonly fence: Fence
  readonly start: number
  /** Where its first inner block's fence is. */
  inner: number
  /** How many blocks were found before it. */
  readonly before: number
}

/**
 * The fenced blocks of a text, in their order. Fences of backticks or tildes; one that is indented by 4 columns more than
 * the open block's is the block's content, as in a docstring. A fence with a label inside a block, of code only if it is
 * not shorter, opens another: of a block without a label, or labelled as Markdown, the inner ones stand for it; a block of
 * code keeps them as its text. A block that is never closed goes on to the end, or to the block that is opened inside it.
 */
export const fencedBlocks = (text: string, from = 0, to: number = text.length): ReadonlyArray<Block> => {
  const found: Array<Block> = []
  const open: Array<Open> = []
  for (let start = from; start < to;) {
    const newline = text.indexOf("\n", start)
    const next = newline < 0 || newline >= to ? to : newline + 1
    const fence = readFence(text, start, newline < 0 || newline >= to ? to : newline)
    if (fence !== undefined) {
      const around = open.at(-1)
      if (around === undefined || fence.indent <= around.fence.indent + 3) {
        const closes =
          around !== undefined &&
          fence.info === "" &&
          fence.character === around.fence.character &&
          fence.length >= around.fence.length
        if (closes) {
          open.pop()
          const label = labelOf(around.fence.info)
          if (!(containers.has(label) && found.length > around.before)) {
            found.length = around.before
            found.push({ start: around.start, end: start, label, indent: around.fence.indent, closed: true })
          }
        } else if (around === undefined || opensInside(fence, around.fence)) {
          if (around !== undefined && around.inner < 0) around.inner = start
          open.push({ fence, start: next, inner: -1, before: found.length })
        }
      }
    }
    start = next
  }
  const unclosed = open.map(({ fence, start, inner }): Block => {
    const end = inner < 0 ? withoutFence(text, start, to, fence) : inner
    return { start, end, label: labelOf(fence.info), indent: fence.indent, closed: false }
  })
  // an open block begins before every block that was found inside it
  return [...found, ...unclosed.filter(({ start, end }) => !isBlank(text, start, end))].toSorted(
    (left, right) => left.start - right.start
  )
}

/** Not a shorter fence in a block of code: that one was made longer to hold it. */
const opensInside = (fence: Fence, around: Fence): boolean =>
  fence.info !== "" &&
  fence.character === around.character &&
  (fence.length >= around.length || containers.has(labelOf(around.info)))

/** A closing fence behind the last character of the code, rather than on a line of its own. */
const withoutFence = (text: string, start: number, end: number, fence: Fence): number => {
  let at = end
  while (at > start && /\s/.test(text[at - 1]!)) at--
  const last = at
  while (at > start && text[at - 1] === fence.character) at--
  return last - at >= fence.length ? at : end
}

const isBlank = (text: string, start: number, end: number): boolean => {
  for (let at = start; at < end; at++) if (!/\s/.test(text[at]!)) return false
  return true
}

/**
 * The offsets of the text after thinking: behind the last `</think>`, up to a `<think>` without an end. Templates that open
 * the thought themselves leave a closing tag alone.
 */
export const answerPart = (text: string): { readonly start: number; readonly end: number } => {
  let start = 0
  for (const tag of ["</think>", "</thinking>"]) {
    const at = text.lastIndexOf(tag)
    if (at >= 0) start = Math.max(start, at + tag.length)
  }
  const unclosed = /(?:^|\n)[ \t]{0,8}<think(?:ing)?>/.exec(text.slice(start))
  return { start, end: unclosed === null ? text.length : start + unclosed.index }
}

const isWord = (character: string | undefined): boolean =>
  character !== undefined && /[\p{ID_Continue}$]/u.test(character)

/** Where a name is defined, in JavaScript's ways or Python's, in order. Only a few characters around each mention are read. */
const definitions = (text: string, name: string): ReadonlyArray<number> => {
  const found: Array<number> = []
  if (name === "") return found
  for (let at = text.indexOf(name); at >= 0; at = text.indexOf(name, at + name.length)) {
    if (isWord(text[at - 1]) || isWord(text[at + name.length])) continue
    const before = text.slice(Math.max(0, at - 40), at)
    const after = text.slice(at + name.length, at + name.length + 20)
    if (
      /(?:^|[^\w$.])(?:def|class|function|const|let|var)\s{1,8}$|(?:^|[^\w$.])function\s{0,4}\*\s{0,4}$/.test(before) ||
      (/^\s{0,8}(?:=(?![=>])|:[^:=\n]{0,10}=)/.test(after) && /(?:^|[\n;.{,])[ \t]{0,16}$/.test(before))
    ) {
      found.push(at)
    }
  }
  return found
}

/**
 * The program in a completion. Thoughts are passed over. Of several blocks it is the last that defines the entry (a usage
 * example after it defines nothing; an improved version does), else the last in a wanted language, else the last without
 * a label, else the last. Only one counts: a completion has one attempt. Without a block it is the whole answer.
 */
export const extractCode = (text: string, wanted: Wanted = {}): Code => {
  const { start, end } = answerPart(text)
  const blocks = fencedBlocks(text, start, end)
  if (blocks.length === 0) {
    // a fence that the prompt opened is closed here
    return { source: text.slice(start, firstFence(text, start, end)), language: undefined, indent: 0, fenced: false }
  }
  const known = (block: Block): Language | "foreign" | undefined =>
    languages.get(block.label) ?? (foreign.has(block.label) ? "foreign" : undefined)
  const preferred: ReadonlySet<unknown> = new Set(wanted.languages ?? ["javascript", "typescript", "python"])
  const fits = (block: Block) => known(block) === undefined || preferred.has(known(block))
  const defining = wanted.entry === undefined ? [] : definitions(text, wanted.entry)
  const defines = (from: number, to: number): boolean => {
    // the first definition at or after `from`
    let low = 0
    let high = defining.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (defining[middle]! < from) low = middle + 1
      else high = middle
    }
    return low < defining.length && defining[low]! < to
  }
  const head = firstFence(text, start, end)
  const chosen = blocks.findLast((block) => fits(block) && defines(block.start, block.end))
  if (chosen === undefined && !blocks[0]!.closed && defines(start, head)) {
    return { source: text.slice(start, head), language: undefined, indent: 0, fenced: false }
  }
  const block =
    chosen ??
    blocks.findLast((one) => preferred.has(known(one))) ??
    blocks.findLast((one) => known(one) === undefined) ??
    blocks.at(-1)!
  return {
    source: text.slice(block.start, block.end),
    language: languages.get(block.label),
    indent: block.indent,
    fenced: true
  }
}

const firstFence = (text: string, from: number, to: number): number => {
  for (let start = from; start < to;) {
    const newline = text.indexOf("\n", start)
    const end = newline < 0 || newline >= to ? to : newline
    if (readFence(text, start, end) !== undefined) return start
    start = end + 1
  }
  return to
}

/** Code without the indentation that its fence has. */
export const dedent = ({ source, indent }: Pick<Code, "source" | "indent">): string => {
  if (indent === 0) return source
  return source
    .split("\n")
    .map((line) => {
      let at = 0
      for (let columns = 0; columns < indent && at < line.length; at++) {
        if (line[at] === " ") columns++
        else if (line[at] === "\t") columns += 4
        else break
      }
      return line.slice(at)
    })
    .join("\n")
}

/** Where base models go on to something else: the stop sequences of the HumanEval paper, section 2. */
const afterBody = /\n(?:class\b|def\b|#|@|if\b|print\b)/

/**
 * The Python program of a completion that may be a function's body alone, to be read behind the prompt, as HumanEval asks
 * for it; or a whole function, as chat models write it, which still gets what the prompt has before the function (imports,
 * helpers). The entry is defined by the prompt last.
 */
export const continued = (prompt: string, text: string, entry: string): string => {
  const code = extractCode(text, { entry, languages: ["python"] })
  const source = dedent(code)
  const { end, start } = answerPart(text)
  const head = text.slice(start, firstFence(text, start, end))
  const whole = definitions(source, entry).length > 0
  if (whole && !startsIndented(source)) {
    // such an import stands first or not at all
    return /^from __future__ /m.test(source) ? source : `${preambleOf(prompt, entry)}\n${source}`
  }
  // a fence that the prompt opened is closed behind the body
  const body = !whole && !startsIndented(source) && startsIndented(head) ? head : source
  const stop = afterBody.exec(body)
  return `${prompt.endsWith("\n") ? prompt : `${prompt}\n`}${stop === null ? body : body.slice(0, stop.index)}\n`
}

/** By more than the one blank that tokenizers leave before prose. */
const startsIndented = (text: string): boolean => {
  const first = /\S/.exec(text)?.index ?? 0
  return text[first - 1] === "\t" || /[ \t]{2}$/.test(text.slice(Math.max(0, first - 2), first))
}

/** The part of the prompt before the function that it asks for. */
export const preambleOf = (prompt: string, entry: string): string => {
  for (let start = 0; start < prompt.length;) {
    const newline = prompt.indexOf("\n", start)
    const end = newline < 0 ? prompt.length : newline
    const line = prompt.slice(start, end)
    const rest = line.startsWith("async def ") ? line.slice(10) : line.startsWith("def ") ? line.slice(4) : undefined
    if (rest?.trimStart().startsWith(entry) && !isWord(rest.trimStart()[entry.length])) return prompt.slice(0, start)
    start = end + 1
  }
  return ""
}
