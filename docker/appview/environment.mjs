// What the environment says to docker/appview/serve.mjs: docs/serve.md, "Environment", has the table. Everything that
// is wrong with it is an OperatorError, one sentence with the remedy, before anything is started.
import { readFileSync } from 'node:fs'

export class OperatorError extends Error {}

// In the order in which they start: each needs only those before it.
export const PARTS = ['bsync', 'dataplane', 'subscription', 'appview']
const NOWHERE = 'http://127.0.0.1:9' // the port "discard": nothing answers, and nothing is sent elsewhere
const DID = /^did:[a-z]+:[a-zA-Z0-9._:%-]*[a-zA-Z0-9._-]$/

// Variables are those of the reference wherever it has one; those that it lacks begin with SERVE_.
export function readEnvironment(env = process.env) {
  const parts = list(env.SERVE_PARTS) ?? PARTS
  const unknown = parts.filter((part) => !PARTS.includes(part))
  if (unknown.length) {
    throw new OperatorError(`SERVE_PARTS names ${unknown.join(', ')}, but the parts are ${PARTS.join(', ')}.`)
  }
  const runs = (part) => parts.includes(part)
  const settings = {
    parts: PARTS.filter(runs),
    appviewHost: env.SERVE_HOST || '127.0.0.1',
    dataplaneHost: env.SERVE_DATAPLANE_HOST || '127.0.0.1',
    dataplanePort: number(env, 'SERVE_DATAPLANE_PORT', 2586, 0, 65_535),
    bsyncHost: env.SERVE_BSYNC_HOST || '127.0.0.1',
    healthHost: env.SERVE_HEALTH_HOST || '127.0.0.1',
    healthPort: number(env, 'SERVE_HEALTH_PORT', 2587, 0, 65_535),
    poolSize: number(env, 'SERVE_POOL_SIZE', 20, 1, 1_000),
    imageCacheBytes: 1_048_576 * number(env, 'SERVE_IMAGE_CACHE_MB', 192, 1, 1_000_000),
    statementSeconds: number(env, 'SERVE_STATEMENT_SECONDS', 30, 1, 3_600),
    migrateBsync: !['false', '0'].includes(env.BSYNC_DB_MIGRATE),
    plcUrl: env.BSKY_DID_PLC_URL || 'https://plc.directory',
    disableSsrfProtection: env.BSKY_DISABLE_SSRF_PROTECTION === 'true',
  }
  number(env, 'BSKY_PORT', 2584, 0, 65_535)
  number(env, 'BSYNC_PORT', 2585, 0, 65_535)
  if (runs('dataplane') || runs('subscription')) {
    settings.url = required(env, 'DATABASE_URL', 'the address of the database that the pipeline fills')
  }
  if (runs('bsync')) {
    required(env, 'BSYNC_DB_POSTGRES_URL', "the address of bsync's own database")
    if (env.BSYNC_DB_POSTGRES_URL === settings.url) {
      throw new OperatorError(
        "BSYNC_DB_POSTGRES_URL is the pipeline's database, but bsync needs one of its own: CREATE DATABASE bsync.",
      )
    }
    if (!runs('dataplane') && !env.BSKY_DATAPLANE_URLS && !env.BSYNC_DATAPLANE_URLS) {
      throw new OperatorError('BSKY_DATAPLANE_URLS is not set: bsync tells the data plane what accounts have seen.')
    }
  }
  if (runs('appview') || runs('subscription')) {
    for (const name of ['BSKY_SERVER_DID', 'MOD_SERVICE_DID']) {
      const meaning = name === 'MOD_SERVICE_DID' ? 'of the moderation service' : 'of this AppView, as PDSes name it'
      const did = required(env, name, `the DID ${meaning}`)
      if (!DID.test(did)) throw new OperatorError(`${name} is ${did}, which is no DID.`)
    }
  }
  if (runs('appview')) {
    required(env, 'BSKY_PUBLIC_URL', 'where clients reach this AppView, such as https://api.example.com')
    settings.signingKey = signingKey(env)
    if (!runs('dataplane') && !env.BSKY_DATAPLANE_URLS && !env.BSKY_DATAPLANE_URLS_ETCD_KEY_PREFIX) {
      throw new OperatorError('BSKY_DATAPLANE_URLS is not set, and SERVE_PARTS has no dataplane: set one of them.')
    }
  }
  if (runs('subscription') && !runs('bsync') && !env.BSKY_BSYNC_URL) {
    throw new OperatorError('BSKY_BSYNC_URL is not set, and SERVE_PARTS has no bsync: subscription needs one of them.')
  }
  settings.hasPrivateState = Boolean(runs('bsync') || env.BSKY_BSYNC_URL)
  return settings
}

// Completes the environment for the packages, which read it themselves, where their defaults fit nobody who runs this
// program. `key` is what bsync and its clients in this process agree on where the operator gave none.
export function completeEnvironment(settings, key, env = process.env) {
  const set = (name, value) => {
    env[name] ||= value
  }
  set('BSKY_DID_PLC_URL', settings.plcUrl)
  // The packages' servers speak HTTP/1.1; the packages' clients would ask them by HTTP/2.
  set('BSKY_DATAPLANE_HTTP_VERSION', '1.1')
  set('BSKY_BSYNC_HTTP_VERSION', '1.1')
  if (settings.parts.includes('bsync')) {
    set('BSYNC_API_KEYS', env.BSKY_BSYNC_API_KEY || key)
    set('BSKY_BSYNC_API_KEY', env.BSYNC_API_KEYS.split(',')[0])
  }
  // They are refused without these; where the parts run here, their real addresses follow when they listen.
  set('BSKY_BSYNC_URL', NOWHERE)
  set('BSKY_DATAPLANE_URLS', NOWHERE)
}

// What makes PostgreSQL look up what a page needs instead of reading whole tables: with more memory it may put all records
// into a hash table to show one page of notifications. Options of an address come after these, and count.
const PLANS = '-c random_page_cost=1.1 -c work_mem=4MB -c hash_mem_multiplier=1 -c jit=off'

// The address with what each of our connections needs. The reference compares dates without their time zone, so the
// session's must be UTC, whatever the server's or the role's is.
export function connectionUrl(url, { name, statementSeconds }) {
  const options = `-c timezone=UTC -c statement_timeout=${statementSeconds}s`
  const found = /([?&])options=([^&]*)/.exec(url)
  if (found) {
    const both = encodeURIComponent(`${PLANS} ${decodeURIComponent(found[2])} ${options}`)
    url = url.replace(found[0], () => `${found[1]}options=${both}`)
  } else {
    url += `${url.includes('?') ? '&' : '?'}options=${encodeURIComponent(`${PLANS} ${options}`)}`
  }
  return /[?&]application_name=/.test(url) ? url : `${url}&application_name=${name}`
}

// The file's text becomes the password of every address that has none: node's driver reads PGPASSWORD.
export function passwordFromFile(env = process.env) {
  const text = fileOf(env, 'PGPASSWORD_FILE')
  if (text !== undefined) env.PGPASSWORD ||= text
}

// The trimmed text of the file that a variable names; nothing where it is not set.
function fileOf(env, name) {
  if (!env[name]) return undefined
  try {
    return readFileSync(env[name], 'utf8').trim()
  } catch (error) {
    throw new OperatorError(`${name} names ${env[name]}, which cannot be read: ${error.code}.`)
  }
}

function list(text) {
  const items = text?.split(',').map((item) => item.trim()).filter(Boolean)
  return items?.length ? items : undefined
}

function number(env, name, otherwise, least, most) {
  if (!env[name]) return otherwise
  const value = Number(env[name])
  if (!Number.isInteger(value) || value < least || value > most) {
    throw new OperatorError(`${name} is ${env[name]}, but must be a whole number from ${least} to ${most}.`)
  }
  return value
}

function required(env, name, meaning) {
  if (!env[name]) throw new OperatorError(`${name} is not set: ${meaning}.`)
  return env[name]
}

function signingKey(env) {
  const text = (env.BSKY_SERVICE_SIGNING_KEY || fileOf(env, 'BSKY_SERVICE_SIGNING_KEY_FILE'))?.trim()
  if (text && !/^[0-9a-f]{64}$/i.test(text)) {
    throw new OperatorError('The signing key is not 64 hexadecimal digits: make one with `node serve.mjs new-key`.')
  }
  return text || undefined
}
