// Serves a database through the published reference AppView: its data plane and its HTTP API. Prints one line of JSON with
// the API's port, and ends when its standard input does. Usage (see README.md): node serve.mjs PACKAGES URL
//
// The environment's BSKY_DID_PLC_URL names a directory of DIDs, which may be on this machine; without it none is asked.
// Requests with the admin password and a header `appview-as-did` are made as that account.
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const [packages, url] = process.argv.slice(2)
const load = (file) => import(pathToFileURL(path.resolve(packages, file)))
const { Database, DataPlaneServer, BskyAppView, ServerConfig } = await load('@atproto/bsky/dist/index.js')
const { Secp256k1Keypair } = await load('@atproto/crypto/dist/index.js')

const nowhere = 'http://127.0.0.1:9' // discard: private state is not asked for
const directory = process.env.BSKY_DID_PLC_URL ?? nowhere
Object.assign(process.env, {
  BSKY_PUBLIC_URL: 'http://localhost',
  BSKY_SERVER_DID: 'did:example:appview',
  BSKY_DID_PLC_URL: directory,
  BSKY_BSYNC_URL: nowhere,
  BSKY_DATAPLANE_HTTP_VERSION: '1.1',
  BSKY_ADMIN_PASSWORDS: 'admin',
  MOD_SERVICE_DID: 'did:example:moderation',
  NODE_ENV: 'production',
})
const db = new Database({ url, schema: 'bsky', poolSize: 5 })
const dataPlane = await DataPlaneServer.create(db, 0, directory, fetch)
const config = ServerConfig.readEnv({ port: 0, dataplaneUrls: [`http://localhost:${dataPlane.server.address().port}`] })
const appView = BskyAppView.create({ config, signingKey: await Secp256k1Keypair.create() })
await appView.start()
console.log(JSON.stringify({ port: appView.server.address().port }))
process.stdin.on('data', () => {}).on('end', () => process.exit(0))
