// Prints the methods that the reference AppView adds to its server, a line of JSON each: id, type, and the names of its
// required parameters or keys of its body. Usage (README.md): node methods.mjs PACKAGES
import { createRequire } from 'node:module'
import { readFileSync, readdirSync } from 'node:fs'
import path from 'node:path'

const packages = path.resolve(process.argv[2])
const require = createRequire(path.join(packages, '..', 'methods.mjs'))
const { schemas } = await import(require.resolve('@atproto/api'))
const lexicons = new Map(schemas.map((schema) => [schema.id, schema.defs.main]))
const api = path.join(packages, '@atproto/bsky/dist/api')
for (const name of readdirSync(api, { recursive: true }).filter((name) => name.endsWith('.js')).sort()) {
  for (const [, id] of readFileSync(path.join(api, name), 'utf8').matchAll(/server\.add\(\s*([\w.]+)/g)) {
    const main = lexicons.get(id)
    const required = main?.parameters?.required ?? main?.input?.schema?.required ?? []
    console.log(JSON.stringify({ id, type: main?.type ?? 'query', required }))
  }
}
