"""What Alembic runs for every command: on the connection, and with the names, that `store/migrate.py` hands over."""

from alembic import context

from appview_pipeline.store.migrate import VERSION_SCHEMA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    version_table_schema=VERSION_SCHEMA,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
