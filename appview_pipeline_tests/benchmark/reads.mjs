// Calls the reads of the reference's data plane, each on one of several databases, and times them. Usage:
//   node reads.mjs PACKAGES '{"ours": URL, ...}'
// The service's own functions are called in this process, on pools of connections as the data plane has: no HTTP, no
// encoding, which take as long whatever the database does. Prints the names of the service's methods; then for each line
// {database, method, request, statements} a line {ms, items, digest, statements, error}: `digest` of the answer, where
// the statements are asked for.
import { createHash } from 'node:crypto'
import path from 'node:path'
import readline from 'node:readline'
import { pathToFileURL } from 'node:url'

const [packages, databases] = process.argv.slice(2)
const load = (file) => import(pathToFileURL(path.resolve(packages, '@atproto/bsky/dist', file)))
const { Database } = await load('index.js')
const { Service } = await load('proto/bsky_connect.js')
const { default: createRoutes } = await load('data-plane/server/routes/index.js')

let sent = null // the statements of the call that is at work, where somebody wants them
const services = {}
for (const [name, url] of Object.entries(JSON.parse(databases))) {
  const db = new Database({ url, schema: 'bsky', poolSize: 10 })
  db.pool.on('connect', (client) => {
    const query = client.query
    client.query = function (text, values, ...rest) {
      if (sent && Array.isArray(values)) sent.push({ text, values })
      return query.call(this, text, values, ...rest)
    }
  })
  createRoutes(db, null)({ service: (_, functions) => (services[name] = functions) })
}

// How many things the answer holds: the longest of its lists.
const items = (answer) =>
  Math.max(0, ...Object.values(answer ?? {}).map((value) => (Array.isArray(value) ? value.length : 0)))

const digest = (answer) =>
  createHash('sha256')
    .update(JSON.stringify(answer, (_, value) => (typeof value === 'bigint' ? String(value) : value)))
    .digest('hex')

console.log(JSON.stringify(Object.keys(Service.methods)))
for await (const line of readline.createInterface({ input: process.stdin })) {
  const { database, method, request, statements } = JSON.parse(line)
  const asked = Service.methods[method].I.fromJson(request)
  sent = statements ? [] : null
  const began = performance.now()
  try {
    const answer = await services[database][method](asked)
    const ms = performance.now() - began
    const more = sent ? { digest: digest(answer), statements: sent } : {}
    console.log(JSON.stringify({ ms, items: items(answer), ...more }))
  } catch (error) {
    console.log(JSON.stringify({ error: String(error), statements: sent ?? undefined }))
  }
}
process.exit(0)
