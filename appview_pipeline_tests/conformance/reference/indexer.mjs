// The published reference AppView's own indexer as it is: subscribes to a relay and writes to databases, one after the other.
// Prints a line of JSON for each that has reached SEQ, and ends. Usage (see README.md):
//   node indexer.mjs PACKAGES RELAY SEQ DOCUMENTS URL...       (DOCUMENTS: a file, DID documents by DID as JSON)
//
// It asks the relay alone: DID documents are given, and handles resolve nowhere.
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'

const [packages, service, seq, file, ...urls] = process.argv.slice(2)
const load = (name) => import(pathToFileURL(path.resolve(packages, name)))
const { Database, RepoSubscription } = await load('@atproto/bsky/dist/index.js')
const { IdResolver } = await load('@atproto/identity/dist/index.js')

const documents = JSON.parse(readFileSync(file, 'utf8'))
const idResolver = new IdResolver({})
idResolver.did.resolveNoCheck = async (did) => documents[did] ?? null
idResolver.handle.resolve = async () => undefined

for (const url of urls) {
  const db = new Database({ url, schema: 'bsky', poolSize: 5 })
  const subscription = new RepoSubscription({ service, db, idResolver })
  void subscription.start()
  while (!(subscription.getCursor() >= Number(seq))) await setTimeout(20)
  await subscription.processAll()
  console.log(JSON.stringify({ cursor: subscription.getCursor() }))
  await subscription.destroy()
  await db.close()
}
process.exit(0)
