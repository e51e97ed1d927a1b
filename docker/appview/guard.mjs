// What fetch refuses strangers. The package guards itself where it asks PDSes, directories and hosts of did:web, but getFeed
// asks whatever address the DID document of a feed's generator names, follows each redirect (to a web server of the inner
// network, say, for which a GET may be a command), and passes on the header by which it was asked: the admin's password, too.

const MOST_BYTES = 2 * 1024 * 1024 // of an answer, after decompression: a page of a feed has some 20 kB
const MOST_MILLISECONDS = 10_000

// Replaces fetch. Free are callers that guard themselves, and the services that the operator's environment names.
export function guardFetch({ safeFetchWrap }, { disableSsrfProtection }, env = process.env) {
  const { fetch } = globalThis
  const services = servicesOf(env)
  const guarded = safeFetchWrap({
    fetch,
    allowHttp: true,
    allowCustomPort: true,
    allowImplicitRedirect: true,
    allowPrivateIps: disableSsrfProtection,
    forbiddenDomainNames: [],
    responseMaxSize: MOST_BYTES,
    timeout: MOST_MILLISECONDS,
  })
  globalThis.fetch = async (input, init) => {
    const isFree = init?.dispatcher || services.has(new URL(input instanceof Request ? input.url : input).origin)
    return isFree ? fetch(input, init) : guarded(input, withoutPassword(input, init))
  }
}

function withoutPassword(input, init) {
  const headers = new Headers(init?.headers ?? (input instanceof Request ? input.headers : undefined))
  if (!/^basic /i.test(headers.get('authorization'))) return init
  headers.delete('authorization')
  return { ...init, headers }
}

// The origins of the services that the AppView asks by fetch. It asks its data plane and bsync in another way, and no
// stranger may send it there.
function servicesOf(env) {
  const names = Object.keys(env).filter((name) => /^BSKY_(?!BSYNC_|DATAPLANE_|PUBLIC_|DID_PLC_)/.test(name))
  return new Set(names.filter((name) => /^https?:/.test(env[name])).map((name) => new URL(env[name]).origin))
}
