/**
 * A hash that distinguishes models in milliseconds, however large they are. A file in the Hub's cache is named by the
 * hash of its contents; other files are sampled.
 */
import { createHash, type Hash } from "node:crypto"
import * as fs from "node:fs/promises"
import * as path from "node:path"

/** Blocks of a file that are read, spread evenly from its first byte to its last. */
const BLOCKS = 64
const BLOCK_BYTES = 4096
/** The header of a safetensors file, or as much of another. */
const HEAD_BYTES = 65_536

/** Hashes a model with random weights: they follow from the configuration and the seed. */
export const ofConfig = (config: object, seed: number): string => {
  const sorted = Object.entries(config).toSorted(([a], [b]) => (a < b ? -1 : 1))
  return createHash("sha256")
    .update(JSON.stringify([sorted, seed]))
    .digest("hex")
}

/** Hashes a GGUF file, or the configuration and the safetensors files of a folder. */
export const ofFiles = async (location: string): Promise<string> => {
  const hash = createHash("sha256")
  if ((await fs.stat(location)).isFile()) {
    hash.update(await ofFile(location))
    return hash.digest("hex")
  }
  const names = (await fs.readdir(location)).filter((name) => name === "config.json" || name.endsWith(".safetensors"))
  for (const name of names.toSorted()) {
    // The optimiser's state of a saved policy is not part of the model.
    if (name.startsWith("optimizer")) continue
    hash.update(`${name} ${await ofFile(path.join(location, name))}\n`)
  }
  return hash.digest("hex")
}

const ofFile = async (file: string): Promise<string> => {
  const blob = path.basename(await fs.realpath(file))
  // Git's hash of a small file, SHA-256 of a large one.
  if (/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(blob)) return blob
  const hash = createHash("sha256")
  const handle = await fs.open(file, "r")
  try {
    const { size } = await handle.stat()
    hash.update(`${size}\n`)
    await read(handle, hash, 0, Math.min(size, HEAD_BYTES))
    const blocks = size > HEAD_BYTES ? BLOCKS : 0
    for (let block = 0; block < blocks; block++) {
      await read(handle, hash, Math.floor(((size - BLOCK_BYTES) * block) / (BLOCKS - 1)), BLOCK_BYTES)
    }
  } finally {
    await handle.close()
  }
  return hash.digest("hex")
}

const read = async (handle: fs.FileHandle, hash: Hash, position: number, length: number): Promise<void> => {
  const { bytesRead, buffer } = await handle.read(Buffer.alloc(length), 0, length, position)
  hash.update(buffer.subarray(0, bytesRead))
}
