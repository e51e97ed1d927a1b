// Runs the reference AppView's own migrator on a database and prints, as JSON, the migrations it had to run.
// An empty list means that it found nothing to do. Usage (see README.md): node migrate.mjs PACKAGES URL [SCHEMA]
import { pathToFileURL } from 'node:url'
import path from 'node:path'

const [packages, url, schema = 'bsky'] = process.argv.slice(2)
if (!packages || !url) {
  console.error('usage: node migrate.mjs FOLDER_OF_NODE_MODULES POSTGRES_URL [SCHEMA]')
  process.exit(2)
}
// The package exports no Database by name that a stranger may count on, so its file is imported.
const file = path.resolve(packages, '@atproto/bsky/dist/data-plane/server/db/db.js')
const { Database } = await import(pathToFileURL(file))
const db = new Database({ url, schema, poolSize: 2 })
try {
  const results = await db.migrateToLatestOrThrow()
  console.log(JSON.stringify(results.map((r) => ({ name: r.migrationName, status: r.status }))))
} finally {
  await db.close()
}
