// Bounds what the package keeps without a limit: in a folder the images that it has made smaller (where the disk is full it
// keeps the first half of an image, and shows that from then on), in memory the DID documents of whomever strangers name.
import { readdir, rm, stat } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'

const WAIT_SECONDS = 10
const SHARE = 0.75 // what is left of the bound, so that not every look deletes something
const IMAGE = /^did:[a-z]+:[^/]+::[a-z0-9]+::[a-z_]+$/ // as the package names them: nothing else in the folder is touched

const MOST_DOCUMENTS = 20_000
const MOST_CHARACTERS = 8_192 // a usual document has 1,000

// `cache`: the data plane's MemoryCache. The document that was fetched longest ago goes; a large one is not kept.
export function boundDocuments(cache, most = MOST_DOCUMENTS) {
  const keep = cache.cacheDid
  cache.cacheDid = async (did, document) => {
    cache.cache.delete(did) // so that it becomes the newest
    if (JSON.stringify(document).length > MOST_CHARACTERS) return
    await keep.call(cache, did, document)
    if (cache.cache.size > most) cache.cache.delete(cache.cache.keys().next().value)
  }
}

export function cacheFolder(env = process.env) {
  return env.BSKY_BLOB_CACHE_LOC || path.join(os.tmpdir(), 'bsky--processed-images')
}

// Looks every 10 s, and more seldom where looking takes long; the function that ends it.
export function keepBounded(folder, mostBytes, log) {
  let timer
  const look = async () => {
    const begun = Date.now()
    try {
      await shrink(folder, mostBytes)
    } catch (error) {
      log.warn({ err: error }, 'the cache of images cannot be made smaller')
    }
    timer = setTimeout(look, Math.max(1_000 * WAIT_SECONDS, 20 * (Date.now() - begun))).unref()
  }
  timer = setTimeout(look, 1_000 * WAIT_SECONDS).unref()
  return () => clearTimeout(timer)
}

// Deletes the oldest images where all of them have more than so many bytes.
export async function shrink(folder, mostBytes) {
  const images = []
  let bytes = 0
  for (const name of await readdir(folder)) {
    const file = path.join(folder, name)
    const found = IMAGE.test(name) && (await stat(file).catch(() => undefined)) // another process may have deleted it
    if (!found) continue
    images.push({ file, size: found.size, when: found.mtimeMs })
    bytes += found.size
  }
  if (bytes <= mostBytes) return
  images.sort((one, other) => one.when - other.when)
  for (const { file, size } of images) {
    if (bytes <= SHARE * mostBytes) return
    await rm(file, { force: true })
    bytes -= size
  }
}
