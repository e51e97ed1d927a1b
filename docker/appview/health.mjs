// Whether the program works (/livez) and whether each of its parts can serve now (/readyz), for Docker, Kubernetes and
// monitors; and the question itself, as a command: node serve.mjs healthy.
import http from 'node:http'

const ANSWER_SECONDS = 5

// `checks`: by part, a function that rejects where the part cannot serve.
export async function answer(path, checks) {
  if (path === '/livez') return { status: 200, body: { status: 'ok' } }
  if (path !== '/readyz') return { status: 404, body: { status: 'unknown path', paths: ['/livez', '/readyz'] } }
  const names = Object.keys(checks)
  const outcomes = await Promise.allSettled(names.map((name) => within(ANSWER_SECONDS, checks[name]())))
  const parts = Object.fromEntries(
    names.map((name, at) => [name, outcomes[at].status === 'fulfilled' ? 'ok' : words(outcomes[at].reason)]),
  )
  const ready = outcomes.every((outcome) => outcome.status === 'fulfilled')
  return { status: ready ? 200 : 503, body: { status: ready ? 'ok' : 'not ready', parts } }
}

export function healthServer(checks) {
  return http.createServer(async (request, response) => {
    const { status, body } = await answer(request.url.split('?')[0], checks)
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
  })
}

// The exit code of the command: 0 where every part can serve.
export async function askHealth({ healthHost, healthPort }) {
  const host = { '0.0.0.0': '127.0.0.1', '::': '[::1]' }[healthHost] ?? healthHost
  try {
    const response = await fetch(`http://${host}:${healthPort}/readyz`, {
      signal: AbortSignal.timeout(2_000 * ANSWER_SECONDS),
    })
    console.log(await response.text())
    return response.ok ? 0 : 1
  } catch (error) {
    console.error(`Nothing answers at ${host}:${healthPort}: ${error.cause?.message ?? error.message}.`)
    return 1
  }
}

export function within(seconds, promise) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer in ${seconds} s`)), 1_000 * seconds)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

export function words(error) {
  return error?.message || error?.code || String(error)
}
