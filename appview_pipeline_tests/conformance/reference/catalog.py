"""What PostgreSQL's catalog says of a schema, as comparable values: for holding ours against the reference's."""

from __future__ import annotations

from psycopg2.extensions import connection as PsycopgConnection

# Each query gives (kind, name, definition); definitions are PostgreSQL's own rendering, so equal text is equal meaning.
# NOT NULL constraints are part of their columns (PostgreSQL 18 lists them as constraints too).
QUERIES = (
    """
    select 'column',
        relation.relname || '.' || attname || ' #' || row_number() over (partition by attrelid order by attnum),
        concat_ws(' ',
            format_type(atttypid, atttypmod),
            case when attcollation <> 0 then 'collate ' || attcollation::regcollation end,
            case when attnotnull then 'not null' end,
            case attgenerated when '' then 'default ' else 'generated ' end || pg_get_expr(adbin, adrelid))
    from pg_attribute
    join pg_class relation on relation.oid = attrelid
    left join pg_attrdef on adrelid = attrelid and adnum = attnum
    where relation.relnamespace = %(schema)s::regnamespace and relkind in ('r', 'm') and attnum > 0 and not attisdropped
    """,
    """
    select 'constraint', conrelid::regclass || ' ' || conname, pg_get_constraintdef(oid)
    from pg_constraint
    where connamespace = %(schema)s::regnamespace and contype <> 'n'
    """,
    """
    select 'index', relname, pg_get_indexdef(oid)
    from pg_class
    where relnamespace = %(schema)s::regnamespace and relkind = 'i'
    """,
    """
    select case relkind when 'm' then 'materialized view' when 'r' then 'table' else 'view' end, relname,
        case when relkind = 'r' then '' else pg_get_viewdef(oid) end
    from pg_class
    where relnamespace = %(schema)s::regnamespace and relkind in ('r', 'm', 'v')
    """,
    """
    select 'sequence', c.relname,
        concat_ws(' ', format_type(seqtypid, null), seqstart, seqincrement, seqmin, seqmax, seqcache, seqcycle,
            'owned by', refobjid::regclass, refobjsubid)
    from pg_sequence
    join pg_class c on c.oid = seqrelid
    left join pg_depend on objid = c.oid and deptype = 'a'
    where c.relnamespace = %(schema)s::regnamespace
    """,
    """
    select 'function', proname, pg_get_functiondef(oid) from pg_proc where pronamespace = %(schema)s::regnamespace
    """,
    """
    select 'trigger', tgrelid::regclass || ' ' || tgname, pg_get_triggerdef(pg_trigger.oid)
    from pg_trigger
    join pg_class on pg_class.oid = tgrelid
    where relnamespace = %(schema)s::regnamespace and not tgisinternal
    """,
    """
    select 'type', typname, typtype::text
    from pg_type
    where typnamespace = %(schema)s::regnamespace and typtype in ('e', 'd', 'r')
    """,
)


def snapshot(connection: PsycopgConnection, schema: str) -> dict[tuple[str, str], str]:
    """Everything in the schema: (kind, name) -> definition. Column names end in their position (`post.uri #1`)."""
    found: dict[tuple[str, str], str] = {}
    with connection.cursor() as cursor:
        for query in QUERIES:
            cursor.execute(query, {"schema": schema})
            found.update({(kind, name): definition for kind, name, definition in cursor.fetchall()})
    return found


# What ours has beyond the reference's.
OUR_ADDITIONS = {
    ("column", "record.rev #8"),
    ("column", "record.appliedAt #9"),
    ("index", "record_applied_at_idx"),
    ("index", "notification_record_did_reason_idx"),
    ("index", "post_reply_root_idx"),
    ("index", "post_reply_parent_idx"),
    ("column", "post.rev #19"),
    ("index", "post_embed_record_embed_uri_idx"),
    ("index", "activity_subscription_subject_idx"),
}

# What the reference has and ours does without (docs/differences.md): index -> (its table, its key).
OUR_OMISSIONS = {
    "notification_record_idx": ("notification", 'btree ("recordUri")'),
    "notification_author_idx": ("notification", "btree (author)"),
    "record_did_idx": ("record", "btree (did)"),
    "post_replyparent_idx": ("post", 'btree ("replyParent") INCLUDE (uri)'),
}
