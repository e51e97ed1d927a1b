// Lets the published reference indexer read a relay up to a sequence number. Prints one JSON line when it has begun and
// one when all that it read is indexed, its background queue included.
// Usage: node reference.mjs PACKAGES DATABASE_URL RELAY_URL PLC_URL LAST_SEQ
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'

const [packages, url, relay, plcUrl, last] = process.argv.slice(2)
const load = (file) => import(pathToFileURL(path.resolve(packages, file)))
const { Database, RepoSubscription } = await load('@atproto/bsky/dist/index.js')
const { IdResolver, MemoryCache } = await load('@atproto/identity/dist/index.js')

const db = new Database({ url, schema: 'bsky', poolSize: 10 })
await db.migrateToLatestOrThrow()

// Its own fetch refuses addresses of this machine, which is where the simulated directory is.
const idResolver = new IdResolver({ plcUrl, didCache: new MemoryCache(), fetch: globalThis.fetch })
// Handles of the simulation are in no DNS: the directory's word is taken for it, which costs it less than a look-up would.
const didOf = new Map()
const resolveAtprotoData = idResolver.did.resolveAtprotoData.bind(idResolver.did)
idResolver.did.resolveAtprotoData = async (did, ...rest) => {
  const data = await resolveAtprotoData(did, ...rest)
  didOf.set(data.handle, did)
  return data
}
idResolver.handle.resolve = async (handle) => didOf.get(handle)

const subscription = new RepoSubscription({ service: relay, db, idResolver })
await subscription.start()
console.log(JSON.stringify({ started: true }))
while ((subscription.getCursor() ?? 0) < Number(last)) await sleep(20)
await subscription.processAll()
console.log(JSON.stringify({ cursor: subscription.getCursor() }))
// Until the benchmark has read what this process has used.
process.stdin.on('data', () => process.exit(0)).on('end', () => process.exit(0))
