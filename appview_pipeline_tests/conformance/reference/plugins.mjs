// Prints, as JSON, the record types that the reference's indexer has a plugin for.
// Usage (see README.md): node plugins.mjs PACKAGES
import { pathToFileURL } from 'node:url'
import path from 'node:path'

const file = path.resolve(process.argv[2], '@atproto/bsky/dist/data-plane/server/indexing/index.js')
const { IndexingService } = await import(pathToFileURL(file))
// Plugins only keep the database, resolver and queue that they are given.
const { records } = new IndexingService(null, null, null)
console.log(JSON.stringify(Object.values(records).map((plugin) => plugin.collection).sort()))
