/** The model of a `tokenizer.json` (BPE or Unigram) and the spelling of each of its ids, checked. */
import type { Fail, Json } from "./tokenizerFields.ts"

/** The largest known vocabularies have a quarter of it. */
export const MAX_TOKENS = 2 ** 20
const MAX_SPELLING = 4096

export const readModel = (
  model: Json,
  fail: Fail
): { readonly model: Json; readonly spellings: Array<string | undefined> } => {
  // Files older than 2020 name no type.
  const { type = "merges" in model ? "BPE" : undefined, unk_token = null, vocab } = model
  const spellings: Array<string | undefined> = []
  const put = (spelling: string, id: unknown, field: string) => {
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= MAX_TOKENS) {
      throw fail(
        field,
        `${JSON.stringify(spelling.slice(0, 80))} has the id ${JSON.stringify(id)}; ids go to ${MAX_TOKENS - 1}`
      )
    }
    if (spelling.length > MAX_SPELLING) throw fail(field, `a token of ${spelling.length} characters`)
    while (spellings.length <= id) spellings.push(undefined)
    if (spellings[id] !== undefined) throw fail(field, `two tokens have the id ${id}`)
    spellings[id] = spelling
  }
  const off = (field: string) => {
    const value = model[field]
    if (value !== undefined && value !== null && value !== "" && value !== 0 && value !== false) {
      throw fail(`model.${field}`, `${JSON.stringify(value)} is not read`)
    }
  }
  if (unk_token !== null && typeof unk_token !== "string") throw fail("model.unk_token", "text was expected")

  if (type === "BPE") {
    for (const field of ["dropout", "continuing_subword_prefix", "end_of_word_suffix"]) off(field)
    if (typeof vocab !== "object" || vocab === null || Array.isArray(vocab)) {
      throw fail("model.vocab", "an object of tokens and ids was expected", "Download it again")
    }
    const entries = Object.entries(vocab)
    for (const [spelling, id] of entries) put(spelling, id, "model.vocab")
    const known = new Set(spellings)
    const { merges } = model
    if (!Array.isArray(merges)) throw fail("model.merges", "a list was expected", "Download it again")
    const pairs = merges.map((merge: unknown, index) => {
      const pair: unknown = typeof merge === "string" ? merge.split(" ") : merge
      if (!Array.isArray(pair) || pair.length !== 2 || typeof pair[0] !== "string" || typeof pair[1] !== "string") {
        throw fail(`model.merges.${index}`, `${JSON.stringify(merge)?.slice(0, 80)} is not a pair of tokens`)
      }
      for (const part of [pair[0], pair[1], pair[0] + pair[1]]) {
        if (!known.has(part)) throw fail(`model.merges.${index}`, `${JSON.stringify(part)} is not in the vocabulary`)
      }
      return [pair[0], pair[1]]
    })
    return {
      model: {
        type,
        vocab,
        merges: pairs,
        unk_token,
        fuse_unk: model["fuse_unk"] === true,
        byte_fallback: model["byte_fallback"] === true,
        ignore_merges: model["ignore_merges"] === true
      },
      spellings
    }
  }

  if (type === "Unigram") {
    off("byte_fallback")
    const { unk_id } = model
    if (!Array.isArray(vocab))
      throw fail("model.vocab", "a list of tokens and scores was expected", "Download it again")
    for (const [id, entry] of vocab.entries()) {
      if (!Array.isArray(entry) || typeof entry[0] !== "string" || !Number.isFinite(entry[1])) {
        throw fail(`model.vocab.${id}`, "a token and its score were expected")
      }
      put(entry[0], id, `model.vocab.${id}`)
    }
    if (typeof unk_id !== "number" || spellings[unk_id] === undefined) {
      throw fail("model.unk_id", `${JSON.stringify(unk_id)} is not an id of the vocabulary`)
    }
    return { model: { type, vocab, unk_id }, spellings }
  }
  throw fail("model.type", `${JSON.stringify(type)} is not read, only BPE and Unigram`)
}
