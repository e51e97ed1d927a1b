// Serves clients from the database that the pipeline fills, with the published reference AppView (@atproto/bsky), which
// has no program of its own. docs/serve.md says how it is started and what each variable means.
//
//   node serve.mjs            runs the parts of SERVE_PARTS until SIGTERM or SIGINT, then ends within 10 s
//   node serve.mjs healthy    asks a running one; exit code 0 where every part can serve
//   node serve.mjs new-key    prints a signing key for BSKY_SERVICE_SIGNING_KEY
//
// The reference's indexer and its migrator of the index never run here: the pipeline writes those tables.
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import net from 'node:net'
import path from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { boundDocuments, cacheFolder, keepBounded } from './cache.mjs'
import { completeEnvironment, connectionUrl, OperatorError, passwordFromFile, readEnvironment } from './environment.mjs'
import { guardFetch } from './guard.mjs'
import { askHealth, healthServer, within, words } from './health.mjs'

const askItself = globalThis.fetch // before it is guarded
const START_SECONDS = 20
const STOP_SECONDS = 9

// The packages read these at import.
process.env.LOG_ENABLED ||= 'true'
process.env.NODE_ENV ||= 'production'
// What the packages call is nothing that an operator can change, and these warnings are no JSON.
process.noDeprecation = true

// Packages are found beside this file, or where SERVE_PACKAGES (a folder node_modules) says.
const packages = path.resolve(process.env.SERVE_PACKAGES || fileURLToPath(new URL('node_modules', import.meta.url)))
const require = createRequire(path.join(packages, '..', 'serve.mjs'))
// `among`: the package that depends on it, where it is not one of ours.
const load = async (name, among) => {
  try {
    const from = among ? createRequire(require.resolve(among)) : require
    return await import(pathToFileURL(from.resolve(name)))
  } catch (error) {
    if (error.code !== 'MODULE_NOT_FOUND') throw error
    throw new OperatorError(`The package ${name} is not in ${packages}: run \`npm ci --omit=dev\` in docker/appview.`)
  }
}

// A package that @atproto/bsky depends on, as it finds it.
const loadOf = (name) => load(name, '@atproto/bsky')

async function keypairs() {
  return (await loadOf('@atproto/crypto')).Secp256k1Keypair
}

async function newKey() {
  const keypair = await (await keypairs()).create({ exportable: true })
  console.log(Buffer.from(await keypair.export()).toString('hex'))
}

// The packages listen on every address and have no setting for another: a port alone becomes a port of `host`.
let host = '127.0.0.1'
const listen = net.Server.prototype.listen
net.Server.prototype.listen = function (first, ...others) {
  return listen.call(this, typeof first === 'number' ? { port: first, host } : first, ...others)
}

async function listening(on, what, start) {
  host = on
  try {
    return await start()
  } catch (error) {
    if (!['EADDRINUSE', 'EADDRNOTAVAIL', 'EACCES'].includes(error.code)) throw error
    throw new OperatorError(`${what} cannot listen on ${on}:${error.port ?? ''}: ${error.code}.`)
  }
}

async function serve() {
  const settings = readEnvironment()
  passwordFromFile()
  completeEnvironment(settings, randomBytes(24).toString('hex'))
  const bsky = await load('@atproto/bsky')
  guardFetch(await loadOf('@atproto-labs/fetch-node'), settings)
  const { createLogger } = await loadOf('@atproto/common')
  const log = createLogger('serve')
  // What this program says itself is little, and wanted whatever LOG_LEVEL is.
  if (log.isLevelEnabled('fatal')) log.level = 'info'
  process.env.BSKY_VERSION ||= versionOf('@atproto/bsky')

  const ports = {}
  const checks = {}
  const ends = [] // what to end, in the order of starting
  let stopping = false
  const stop = async (code) => {
    if (stopping) return
    stopping = true
    setTimeout(() => process.exit(code || 1), 1_000 * STOP_SECONDS).unref()
    // The API ends first, with the requests that it has begun; they need the others.
    const last = ends.pop()
    await Promise.allSettled([last?.()])
    await Promise.allSettled(ends.map((end) => end()))
    await Promise.allSettled([opened?.close()])
    if (!code) log.info('ended')
    process.exit(code)
  }
  const fail = (error) => {
    if (error instanceof OperatorError) log.fatal(error.message)
    else log.fatal({ err: error }, 'a part failed, so this process ends')
    return stop(1)
  }
  process.on('SIGTERM', () => stop(0)).on('SIGINT', () => stop(0))
  process.on('uncaughtException', fail).on('unhandledRejection', fail)

  try {
    configurationOf(bsky) // what is wrong with it is said before anything is started
    const running = { settings, bsky, log, ports, checks, fail }
    for (const part of settings.parts) ends.push(await STARTS[part](running))
    const health = healthServer(checks)
    const listens = () => once(health.listen(settings.healthPort), 'listening')
    await listening(settings.healthHost, 'The health server', listens)
    ports.health = health.address().port
    ends.unshift(() => health.close() && health.closeAllConnections())
    if (!settings.hasPrivateState) log.warn('there is no bsync: mutes, bookmarks and the like are refused')
    log.info({ parts: settings.parts, ports, version: process.env.BSKY_VERSION }, 'serving')
  } catch (error) {
    await fail(error)
  }
}

async function startBsync({ settings, bsky, log, ports, checks, fail }) {
  const { BsyncService, envToCfg, readEnv } = await load('@atproto/bsync')
  const environment = readEnv()
  environment.dbUrl = connectionUrl(environment.dbUrl, { name: 'bsync', ...settings })
  environment.version ??= versionOf('@atproto/bsync')
  const dataplaneClients = [seenClient(bsky, environment.dataplaneUrls)]
  delete environment.dataplaneUrls
  const service = await BsyncService.create(envToCfg(environment), { dataplaneClients })
  const { db } = service.ctx
  await answering(db.pool, 'BSYNC_DB_POSTGRES_URL')
  if (settings.migrateBsync) {
    const done = await db.migrateToLatestOrThrow()
    if (done.length) log.info({ migrations: done.map((migration) => migration.migrationName) }, 'bsync is migrated')
  }
  // Its first connection waits for new operations, and does not come back by itself.
  db.pool.once('acquire', (client) =>
    client.once('end', () => service.state === 'started' && fail(new OperatorError(
      "bsync's connection that waits for new operations is lost, so this process ends, to be started again.",
    ))),
  )
  const server = await listening(settings.bsyncHost, 'bsync', () => service.start())
  ports.bsync = server.address().port
  process.env.BSKY_BSYNC_URL = `http://${inUrl(settings.bsyncHost)}:${ports.bsync}`
  checks.bsync = () => db.pool.query('SELECT 1')
  return () => service.destroy()
}

// bsync tells the data plane up to when an account has seen its notifications, and nothing else does. Its own client
// speaks HTTP/2 only, which the packages' data plane does not, so this is the AppView's client. It is made late: the
// data plane of this process starts after bsync.
function seenClient(bsky, urls) {
  let client
  const connect = () => {
    const hosts = urls?.length ? urls : process.env.BSKY_DATAPLANE_URLS.split(',')
    return bsky.createDataPlaneClient(new bsky.BasicHostList(hosts), {
      httpVersion: process.env.BSKY_DATAPLANE_HTTP_VERSION,
      rejectUnauthorized: process.env.BSKY_DATAPLANE_IGNORE_BAD_TLS !== 'true',
    })
  }
  return { updateNotificationSeen: (request) => (client ??= connect()).updateNotificationSeen(request) }
}

// One pool for the data plane and the subscription of a process.
let opened
async function openDatabase({ settings, bsky }) {
  if (opened) return opened
  const db = new bsky.Database({
    url: connectionUrl(settings.url, { name: 'bsky-dataplane', ...settings }),
    schema: 'bsky',
    poolSize: settings.poolSize,
  })
  opened = db
  const { rows } = await answering(db.pool, 'DATABASE_URL', 'SHOW timezone')
  if (!['UTC', 'Etc/UTC', 'GMT'].includes(rows[0].TimeZone)) {
    throw new OperatorError(
      `The sessions of the AppView have the time zone ${rows[0].TimeZone}, and a pooler keeps them from setting it: ` +
        "ALTER ROLE ... SET timezone = 'UTC'.",
    )
  }
  const missing = (await db.migrator.getMigrations()).filter((migration) => !migration.executedAt)
  if (missing.length) {
    throw new OperatorError(
      `The database lacks ${missing.length} migrations of this version of the reference, up to ` +
        `${missing.at(-1).name}: run \`appview-pipeline migrate\` first.`,
    )
  }
  return db
}

async function startDataPlane(running) {
  const { settings, bsky, ports, checks } = running
  const db = await openDatabase(running)
  const fetch = settings.disableSsrfProtection ? globalThis.fetch : undefined
  const dataPlane = await listening(settings.dataplaneHost, 'The data plane', () =>
    bsky.DataPlaneServer.create(db, settings.dataplanePort, settings.plcUrl, fetch),
  )
  boundDocuments(dataPlane.idResolver.did.cache)
  ports.dataplane = dataPlane.server.address().port
  process.env.BSKY_DATAPLANE_URLS = `http://${inUrl(settings.dataplaneHost)}:${ports.dataplane}`
  checks.dataplane = () => db.pool.query('SELECT 1')
  return () => dataPlane.destroy()
}

async function startSubscription(running) {
  const { bsky, checks } = running
  const db = await openDatabase(running)
  const subscription = new bsky.BsyncSubscription({ config: configurationOf(bsky), db })
  subscription.start()
  checks.subscription = () => subscription.bsyncClient.ping({})
  return () => subscription.destroy()
}

async function startAppView({ settings, bsky, log, ports, checks }) {
  const Keypair = await keypairs()
  if (!settings.signingKey) {
    log.warn('BSKY_SERVICE_SIGNING_KEY is not set: the key in /.well-known/did.json is new at each start')
  }
  const signingKey = settings.signingKey ? await Keypair.import(settings.signingKey) : await Keypair.create()
  const appView = bsky.BskyAppView.create({ config: configurationOf(bsky), signingKey })
  const server = await listening(settings.appviewHost, 'The AppView', () => appView.start())
  ports.appview = server.address().port
  const self = `http://${inUrl(settings.appviewHost)}:${ports.appview}/xrpc/_health`
  checks.appview = async () => {
    const response = await askItself(self)
    if (!response.ok) throw new Error(`it answers ${response.status}: the data plane does not answer`)
  }
  // With a CDN the package keeps no images.
  const endCache = appView.ctx.cfg.cdnUrl ? () => {} : keepBounded(cacheFolder(), settings.imageCacheBytes, log)
  return () => {
    endCache()
    return appView.destroy()
  }
}

function configurationOf(bsky) {
  try {
    return bsky.ServerConfig.readEnv()
  } catch (error) {
    throw new OperatorError(`The reference refuses its environment: ${words(error).split('\n')[0]}`)
  }
}

async function answering(pool, variable, query = 'SELECT 1') {
  try {
    return await within(START_SECONDS, pool.query(query))
  } catch (error) {
    throw new OperatorError(`The database of ${variable} does not answer: ${words(error)}.`)
  }
}

function versionOf(name) {
  return JSON.parse(readFileSync(path.join(packages, name, 'package.json'), 'utf8')).version
}

// A host as URLs of this machine have it.
function inUrl(on) {
  if (on === '0.0.0.0') return '127.0.0.1'
  if (on === '::') return '[::1]'
  return on.includes(':') ? `[${on}]` : on
}

const STARTS = {
  bsync: startBsync,
  dataplane: startDataPlane,
  subscription: startSubscription,
  appview: startAppView,
}
const commands = { healthy: async () => process.exit(await askHealth(readEnvironment())), 'new-key': newKey, serve }
const [command = 'serve', ...others] = process.argv.slice(2)
try {
  if (!commands[command] || others.length) {
    const given = process.argv.slice(2).join(' ')
    throw new OperatorError(`Unknown arguments: ${given}. The commands are serve, healthy and new-key.`)
  }
  await commands[command]()
} catch (error) {
  if (!(error instanceof OperatorError)) throw error
  console.error(error.message)
  process.exit(2)
}
