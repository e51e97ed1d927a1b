// Reads a label service as the published packages do: com.atproto.label.subscribeLabels with the Subscription of
// @atproto/xrpc-server, queryLabels with the agent of @atproto/api; lexicons of @atproto/api, signatures checked by
// @atproto/crypto. Prints JSON lines: each message of the stream until COUNT labels have come, then the query's answer;
// or the error that has ended the stream.
// Usage (see README.md): node label_client.mjs PACKAGES HOST:PORT CURSOR DID_KEY COUNT
import { pathToFileURL } from 'node:url'
import path from 'node:path'

const [packages, host, cursor, key, count] = process.argv.slice(2)
const load = (name) => import(pathToFileURL(path.resolve(packages, '@atproto', name, 'dist/index.js')))
const { Subscription } = await load('xrpc-server')
const { AtpAgent, schemas } = await load('api')
const { Lexicons } = await load('lexicon')
const { encode } = await load('lex-cbor')
const { verifySignature } = await load('crypto')

const METHOD = 'com.atproto.label.subscribeLabels'
const lexicons = new Lexicons(schemas)
const checked = async ({ $type, sig, ...label }) => ({ ...label, verified: await verifySignature(key, encode(label), sig) })

const subscription = new Subscription({
  service: `ws://${host}`,
  method: METHOD,
  getParams: () => ({ cursor: Number(cursor) }),
  validate: (value) => lexicons.assertValidXrpcMessage(METHOD, value),
})
let seen = 0
try {
  for await (const message of subscription) {
    const labels = await Promise.all((message.labels ?? []).map(checked))
    console.log(JSON.stringify({ ...message, labels }))
    seen += labels.length
    if (seen >= Number(count)) break
  }
} catch (error) {
  console.log(JSON.stringify({ error: error.error ?? error.name, message: error.message }))
  process.exit(0)
}
const agent = new AtpAgent({ service: `http://${host}` })
const { data } = await agent.com.atproto.label.queryLabels({ uriPatterns: ['*'], limit: 250 })
console.log(JSON.stringify({ $type: 'query', labels: await Promise.all(data.labels.map(checked)) }))
process.exit(0)
