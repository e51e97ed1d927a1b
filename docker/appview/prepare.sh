#!/bin/sh
# Makes what the reference AppView needs in PostgreSQL: its role (role.sql, beside this file), a password for it, and
# the database of bsync. It can run again at any time. It connects as libpq's variables say (PGHOST, PGUSER, PGPASSWORD,
# PGDATABASE), as the role that runs `appview-pipeline migrate`: a superuser, or one with CREATEROLE and CREATEDB. The
# password is in the file that PASSWORD_FILE names; it is made where there is none.
set -eu
export PASSWORD_FILE="${PASSWORD_FILE:?set PASSWORD_FILE}"

if [ ! -s "$PASSWORD_FILE" ]; then
    head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$PASSWORD_FILE.new"
    # The AppView's user reads it, whose number is another; nobody else has the volume.
    chmod 0444 "$PASSWORD_FILE.new"
    mv "$PASSWORD_FILE.new" "$PASSWORD_FILE"
fi

psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --single-transaction --file="$(dirname "$0")/role.sql"
# psql reads the password itself: everybody on the machine sees arguments.
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 <<'SQL'
\set password `cat "$PASSWORD_FILE"`
ALTER ROLE appview_server PASSWORD :'password';
-- Whoever is no superuser makes a database for another role only as a member of that role.
SELECT 'GRANT appview_server TO CURRENT_USER'
WHERE NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
    AND NOT EXISTS (SELECT FROM pg_database WHERE datname = 'bsync') \gexec
SELECT 'CREATE DATABASE bsync OWNER appview_server'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'bsync') \gexec
SQL
echo "The role appview_server and the database bsync are ready."
