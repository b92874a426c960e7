/**
 * Locations of models: Hugging Face folders, GGUF files, and names on the Hub.
 *
 * One string names the model. If it exists on disk, it is the path. If it does not and has the form `org/name`, it is a
 * name on the Hub. `org/name@main` is always a name on the Hub, unless a folder has exactly that name.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as fs from "node:fs/promises"
import * as path from "node:path"
import * as Hub from "./Hub.ts"
import { TOKENIZER_FILES } from "./internal/hub/files.ts"
import type { Tokenizer } from "../text/Tokenizer.ts"
import * as TokenizerJson from "../text/TokenizerJson.ts"

/** A model that cannot be opened under its name. The error lists what was tried. */
export class CheckpointError extends Schema.TaggedError<CheckpointError>()("CheckpointError", {
  model: Schema.String,
  tried: Schema.Array(Schema.String),
  problem: Schema.String,
  remedy: Schema.String
}) {
  override get message(): string {
    return `model ${JSON.stringify(this.model)}: ${this.problem} (tried ${this.tried.join(", ")}). ${this.remedy}.`
  }
}

/** A model's files on this machine. */
export interface Location {
  /** Name as it was given. */
  readonly name: string
  /** Absolute path of the folder or of the GGUF file. */
  readonly path: string
  readonly format: "huggingface" | "gguf"
  /** Commit to which the revision of a name on the Hub was resolved. */
  readonly commit?: string
  /** The folder's `config.json`. Undefined for a GGUF file, whose metadata the engine reads. */
  readonly config: Readonly<Record<string, unknown>> | undefined
}

/** A model's files and its tokenizer. */
export interface Checkpoint extends Location {
  readonly tokenizer: Tokenizer
}

export interface CheckpointOptions {
  /** Options for names on the Hub. */
  readonly hub?: Hub.HubOptions
}

const decodeConfig = Schema.decodeUnknownEffect(Schema.fromJsonString(Schema.Record(Schema.String, Schema.Unknown)))

/**
 * Finds the files of a model.
 *
 * Downloads them if the model is a name on the Hub. It reads neither weights nor tokenizer.
 *
 * @param model `./folder`, `file.gguf`, `org/name`, `org/name@revision` or `org/name@revision:file.gguf`
 */
export const locate = Effect.fn("Checkpoint.locate")(function* (
  model: string,
  options: CheckpointOptions = {}
): Effect.fn.Return<Location, CheckpointError | Hub.HubError> {
  const at = path.resolve(model)
  const fail = (problem: string, remedy: string, tried: ReadonlyArray<string> = [at]) =>
    new CheckpointError({ model, tried, problem, remedy })
  const found = yield* Effect.promise(() => fs.stat(at).catch(() => undefined))
  const hub = Hub.parseName(model)

  if (found === undefined) {
    if (hub === undefined) {
      const tried = [`the folder or file ${at}`, "a name on the Hub: org/name, org/name@revision"]
      return yield* fail("no such folder or file, and no name on the Hub", "Check the path", tried)
    }
    const snapshot = yield* Hub.snapshot(model, options.hub)
    const { commit } = snapshot
    if (hub.file !== undefined) return { name: model, path: snapshot.path, format: "gguf", commit, config: undefined }
    const config = yield* readConfig(model, snapshot.path)
    return { name: model, path: snapshot.path, format: "huggingface", commit, config }
  }
  if (found.isFile()) {
    if (at.endsWith(".gguf")) return { name: model, path: at, format: "gguf", config: undefined }
    return yield* fail(
      "the file is not GGUF",
      "Give a .gguf file, or the folder that holds config.json and safetensors"
    )
  }
  const names = yield* Effect.promise(() => fs.readdir(at).catch((): Array<string> => []))
  if (names.includes("config.json")) {
    return { name: model, path: at, format: "huggingface", config: yield* readConfig(model, at) }
  }
  const gguf = names.find((name) => name.endsWith(".gguf"))
  if (gguf !== undefined) {
    return yield* fail("the folder has no config.json", `Give its GGUF file: ${path.join(model, gguf)}`)
  }
  if (names.includes("adapter_config.json")) {
    const remedy = "Open the base model, and this folder as one of its adapters"
    return yield* fail("the folder holds an adapter, which is not a model by itself", remedy)
  }
  const remedy = "Give the folder that holds config.json and safetensors"
  return yield* fail(
    "the folder has no config.json",
    hub === undefined ? remedy : `${remedy}, or write ${hub.repo}@${hub.revision} if the Hub's model is meant`
  )
})

/**
 * Finds a model and reads its tokenizer.
 *
 * An engine opens the weights from `path`.
 *
 * @example
 * ```ts
 * const { tokenizer } = yield* Checkpoint.open("HuggingFaceTB/SmolLM2-135M-Instruct@main")
 * const prompt = tokenizer.render([{ role: "user", content: "What is 2+2?" }])
 * ```
 */
export const open = Effect.fn("Checkpoint.open")(function* (
  model: string,
  options: CheckpointOptions = {}
): Effect.fn.Return<Checkpoint, CheckpointError | Hub.HubError | TokenizerJson.TokenizerError> {
  const location = yield* locate(model, options)
  return { ...location, tokenizer: yield* tokenizerOf(location) }
})

/** Reads the tokenizer among a model's files. */
export const tokenizerOf = ({ format, path }: Location): Effect.Effect<Tokenizer, TokenizerJson.TokenizerError> =>
  format === "gguf" ? TokenizerJson.fromGguf(path) : TokenizerJson.fromDirectory(path)

const readConfig = Effect.fnUntraced(function* (model: string, folder: string) {
  const file = path.join(folder, "config.json")
  const fail = (problem: string) =>
    new CheckpointError({ model, tried: [file], problem, remedy: "Restore the file from where the model came from" })
  const text = yield* Effect.tryPromise({
    try: async () => {
      const { size } = await fs.stat(file)
      if (size > 2 ** 24) throw new Error(`it is ${size} bytes long`)
      return await fs.readFile(file, "utf8")
    },
    catch: (cause) => fail(`config.json cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`)
  })
  return yield* decodeConfig(text).pipe(
    Effect.mapError((error) => fail(`config.json is not a JSON object: ${error.message}`))
  )
})

/**
 * Saves a model's tokenizer and chat template to a folder of saved weights.
 *
 * transformers then opens the folder as a whole model. The files are the model folder's own, or what the metadata of a
 * GGUF file describes. Files that the model folder lacks are skipped.
 */
export const saveTokenizer = Effect.fn("Checkpoint.saveTokenizer")(function* (
  { format, name, path: from }: Location,
  to: string
): Effect.fn.Return<void, CheckpointError | TokenizerJson.TokenizerError> {
  if (path.resolve(from) === path.resolve(to)) return
  const texts = format === "gguf" ? yield* TokenizerJson.filesFromGguf(from) : {}
  yield* Effect.tryPromise({
    try: async () => {
      for (const [file, text] of Object.entries(texts)) {
        await fs.mkdir(path.dirname(path.join(to, file)), { recursive: true })
        await fs.writeFile(path.join(to, file), text)
      }
      if (format === "gguf") return
      const names = (await fs.readdir(from, { recursive: true })).filter(
        (name) => TOKENIZER_FILES.has(name) || /^additional_chat_templates[/\\][^/\\]+\.jinja$/.test(name)
      )
      for (const name of names) {
        await fs.mkdir(path.dirname(path.join(to, name)), { recursive: true })
        await fs.copyFile(path.join(from, name), path.join(to, name))
      }
    },
    catch: (cause) =>
      new CheckpointError({
        model: name,
        tried: [to],
        problem: `its tokenizer's files cannot be written: ${cause instanceof Error ? cause.message : String(cause)}`,
        remedy: "Check the permissions of both folders, and the free space on the disk"
      })
  })
})
