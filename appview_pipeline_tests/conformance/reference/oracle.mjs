// The published reference AppView as an oracle: indexes frames into a database of its own and answers the reads of its data
// plane over any database. One line of JSON is a request (`{"do", ...}`), one line of JSON its answer (`{"result"}`
// or `{"error"}`); requests are worked off in order. Ends when its standard input does.
// Usage (see README.md): node oracle.mjs PACKAGES
//
// Its data plane is the reference's service behind Connect's client, requests and responses as protobuf bytes between them, and
// only the socket left out, which takes most of the time of a call.
//
// It asks nobody: identities are what it was given, and the only host that it asks itself (an account's PDS, whether a deleted
// repository is really gone) is answered in this process. Its clock stands still at the time of the newest event.
import events from 'node:events'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'

const [packages] = process.argv.slice(2)
const load = (file) => import(pathToFileURL(path.resolve(packages, file)))

// Before anything is loaded: no module may keep the real clock or the real fetch.
const clock = { time: undefined }
const RealDate = Date
const now = () => clock.time ?? RealDate.now()
globalThis.Date = new Proxy(RealDate, {
  construct: (target, args, newTarget) => Reflect.construct(target, args.length ? args : [now()], newTarget),
  apply: () => new RealDate(now()).toString(),
  get: (target, property, receiver) => (property === 'now' ? now : Reflect.get(target, property, receiver)),
})

const identity = { documents: new Map(), handles: new Map(), gone: new Set() }
globalThis.fetch = async (input) => {
  const url = new URL(input instanceof Request ? input.url : input)
  if (!url.pathname.endsWith('/com.atproto.sync.getLatestCommit')) throw new Error(`the oracle asks nobody: ${url}`)
  if (identity.gone.has(url.searchParams.get('did'))) {
    return Response.json({ error: 'RepoNotFound', message: 'Could not find repo' }, { status: 400 })
  }
  return Response.json({ cid: 'bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua', rev: '3kaaaaaaaaa2a' })
}

const { Database, RepoSubscription } = await load('@atproto/bsky/dist/index.js')
const { Service } = await load('@atproto/bsky/dist/proto/bsky_connect.js')
const { default: createRoutes } = await load('@atproto/bsky/dist/data-plane/server/routes/index.js')
const { Timestamp } = await load('@bufbuild/protobuf/dist/esm/index.js')
const { IdResolver } = await load('@atproto/identity/dist/index.js')
const { ensureChunkIsMessage } = await load('@atproto/xrpc-server/dist/stream/stream.js')
const { Code, ConnectError, createPromiseClient, createRouterTransport } = await load('@connectrpc/connect/dist/esm/index.js')

const METHOD = 'com.atproto.sync.subscribeRepos'
const IN_FLIGHT = 12 // calls of one batch that wait for the database at the same time
const POOL_SIZE = 6
const MAX_PAGES = 2000

// Everything above the network is the resolver's own: the checks of documents, handles that are resolved both ways.
const idResolver = new IdResolver({ fetch: globalThis.fetch })
idResolver.did.resolveNoCheck = async (did) => identity.documents.get(did) ?? null
idResolver.handle.resolve = async (handle) => identity.handles.get(handle.toLowerCase())

const databases = new Map()

const actions = {
  async open({ name, url }) {
    const db = new Database({ url, schema: 'bsky', poolSize: POOL_SIZE })
    const { rows } = await db.pool.query("SELECT to_regclass('bsky.record') IS NOT NULL AS made")
    if (!rows[0].made) await db.migrateToLatestOrThrow()
    const client = createPromiseClient(Service, createRouterTransport(createRoutes(db, idResolver)))
    databases.set(name, { db, client })
  },

  async close({ name }) {
    await databases.get(name).db.close()
    databases.delete(name)
  },

  async identities({ documents, handles, gone }) {
    identity.documents = new Map(Object.entries(documents))
    identity.handles = new Map(Object.entries(handles))
    identity.gone = new Set(gone)
  },

  async clock({ time }) {
    clock.time = time === null ? undefined : RealDate.parse(time)
  },

  async index({ name, frames }) {
    const database = databases.get(name)
    database.indexer ??= indexerOf(database.db)
    const { firehose, background, parts } = database.indexer
    const refused = []
    for (const [position, frame] of frames.entries()) {
      const refuse = (step, error, uri = null) => {
        const reason = error.cause ? `${error.message}: ${error.cause.message}` : error.message
        refused.push({ position, step, uri, reason })
      }
      firehose.opts.onError = (error) => refuse('parse', error)
      let event
      try {
        event = read(firehose, Buffer.from(frame, 'base64'))
      } catch (error) {
        refuse('parse', error)
      }
      if (event === undefined) continue
      const time = RealDate.parse(event.time)
      if (!Number.isNaN(time)) clock.time = time
      for (const operation of await firehose.parseEvt(event)) {
        const uri = operation.uri?.toString()
        parts.length = 0
        await firehose.opts.handleEvent(operation).catch((error) => parts.length || refuse('event', error, uri))
        // The first part that fails ends the event; the others are still under way.
        for (const { step, promise } of parts) await promise.catch((error) => refuse(step, error, uri))
        await background.processAll()
      }
    }
    return refused
  },

  async ask({ name, calls }) {
    const { client } = databases.get(name)
    const answers = new Array(calls.length)
    let next = 0
    const worker = async () => {
      for (let i = next++; i < calls.length; i = next++) {
        answers[i] = await called(client, ...calls[i])
      }
    }
    await Promise.all(Array.from({ length: IN_FLIGHT }, worker))
    return answers
  },

  async methods() {
    return Object.fromEntries(
      Object.entries(Service.methods).map(([name, { I }]) => [name, I.fields.list().map((field) => field.jsonName)]),
    )
  },
}

// The indexer as the reference's program makes it. Its firehose is taken before it connects: frames are handed to it. `parts`:
// what an event makes the indexer do, several things at once.
function indexerOf(db) {
  const subscription = new RepoSubscription({ service: 'ws://127.0.0.1:9', db, idResolver })
  const { background, indexingSvc } = subscription
  const parts = []
  for (const step of ['indexRecord', 'deleteRecord', 'indexHandle', 'setCommitLastSeen', 'updateActorStatus', 'deleteActor']) {
    const method = indexingSvc[step]
    indexingSvc[step] = (...given) => {
      const promise = method.apply(indexingSvc, given)
      parts.push({ step, promise })
      return promise
    }
  }
  void subscription.start()
  const { firehose } = subscription.current
  firehose.abortController.abort()
  return { background, firehose, parts }
}

// What the firehose's subscription makes of a chunk of the socket.
function read(firehose, bytes) {
  const message = ensureChunkIsMessage(bytes)
  const { t } = message.header
  return firehose.sub.opts.validate({ ...message.body, $type: t.startsWith('#') ? METHOD + t : t })
}

// One response, or all pages of it: `follow` asks again with the cursor of the response until there is none.
async function called(client, method, request, follow) {
  const { I } = Service.methods[method]
  const message = I.fromJson(request)
  const pages = []
  try {
    for (;;) {
      const response = await client[method](message)
      pages.push(plain(response))
      const cursor = response.cursor || response.pageInfo?.cursor
      if (!follow || !cursor) return { body: follow ? pages : pages[0] }
      if (pages.length === MAX_PAGES) throw new Error(`${method} has more than ${MAX_PAGES} pages: ${JSON.stringify(request)}`)
      ;(message.params ?? message).cursor = cursor
    }
  } catch (error) {
    if (!(error instanceof ConnectError)) throw error
    return { body: follow ? pages : null, error: Code[error.code], message: error.rawMessage }
  }
}

// A message as JSON. Protobuf's own JSON has no times of five-digit years, which records may have.
function plain(value) {
  if (typeof value === 'bigint') return Number(value)
  if (typeof value !== 'object' || value === null) return value
  if (value instanceof Uint8Array) return Buffer.from(value).toString('base64')
  if (value instanceof Timestamp) return value.toDate().toISOString()
  if (Array.isArray(value)) return value.map(plain)
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, plain(inner)]))
}

for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  const { do: action, ...request } = JSON.parse(line)
  let answer
  try {
    answer = { result: (await actions[action](request)) ?? null }
  } catch (error) {
    answer = { error: error.stack ?? String(error) }
  }
  if (!process.stdout.write(JSON.stringify(answer) + '\n')) await events.once(process.stdout, 'drain')
}
process.exit(0)
