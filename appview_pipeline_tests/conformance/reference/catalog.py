"""What PostgreSQL's catalog says of a schema, as comparable values: for holding ours against the reference's."""

from __future__ import annotations

from psycopg2.extensions import connection as PsycopgConnection

# Each query gives (kind, name, definition); definitions are PostgreSQL's own rendering, so equal text is equal meaning.
# NOT NULL constraints are part of their columns (PostgreSQL 18 lists them as constraints too).
QUERIES = (
    """
    SELECT 'column',
        relation.relname || '.' || attname || ' #' || row_number() OVER (PARTITION BY attrelid ORDER BY attnum),
        concat_ws(' ',
            format_type(atttypid, atttypmod),
            CASE WHEN attcollation <> 0 THEN 'collate ' || attcollation::regcollation END,
            CASE WHEN attnotnull THEN 'not null' END,
            CASE attgenerated WHEN '' THEN 'default ' ELSE 'generated ' END || pg_get_expr(adbin, adrelid))
    FROM pg_attribute
    JOIN pg_class relation ON relation.oid = attrelid
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE relation.relnamespace = %(schema)s::regnamespace AND relkind IN ('r', 'm') AND attnum > 0 AND NOT attisdropped
    """,
    """
    SELECT 'constraint', conrelid::regclass || ' ' || conname, pg_get_constraintdef(oid)
    FROM pg_constraint
    WHERE connamespace = %(schema)s::regnamespace AND contype <> 'n'
    """,
    """
    SELECT 'index', relname, pg_get_indexdef(oid)
    FROM pg_class
    WHERE relnamespace = %(schema)s::regnamespace AND relkind = 'i'
    """,
    """
    SELECT CASE relkind WHEN 'm' THEN 'materialized view' WHEN 'r' THEN 'table' ELSE 'view' END, relname,
        CASE WHEN relkind = 'r' THEN '' ELSE pg_get_viewdef(oid) END
    FROM pg_class
    WHERE relnamespace = %(schema)s::regnamespace AND relkind IN ('r', 'm', 'v')
    """,
    """
    SELECT 'sequence', c.relname,
        concat_ws(' ', format_type(seqtypid, NULL), seqstart, seqincrement, seqmin, seqmax, seqcache, seqcycle,
            'owned by', refobjid::regclass, refobjsubid)
    FROM pg_sequence
    JOIN pg_class c ON c.oid = seqrelid
    LEFT JOIN pg_depend ON objid = c.oid AND deptype = 'a'
    WHERE c.relnamespace = %(schema)s::regnamespace
    """,
    """
    SELECT 'function', proname, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = %(schema)s::regnamespace
    """,
    """
    SELECT 'trigger', tgrelid::regclass || ' ' || tgname, pg_get_triggerdef(pg_trigger.oid)
    FROM pg_trigger
    JOIN pg_class ON pg_class.oid = tgrelid
    WHERE relnamespace = %(schema)s::regnamespace AND NOT tgisinternal
    """,
    """
    SELECT 'type', typname, typtype::text
    FROM pg_type
    WHERE typnamespace = %(schema)s::regnamespace AND typtype IN ('e', 'd', 'r')
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
    ("column", "record.quiet #10"),
    ("index", "record_applied_at_idx"),
    ("index", "notification_record_did_reason_idx"),
    ("index", "post_reply_root_idx"),
    ("index", "post_reply_parent_idx"),
    ("column", "post.rev #19"),
    ("index", "post_embed_record_embed_uri_idx"),
    ("index", "activity_subscription_subject_idx"),
    ("index", "label_in_effect_idx"),
    ("index", "label_exp_idx"),
    ("index", "record_self_labels_idx"),
}

# What the reference has and ours does without (docs/differences.md): index -> (its table, its key).
OUR_OMISSIONS = {
    "notification_record_idx": ("notification", 'btree ("recordUri")'),
    "record_did_idx": ("record", "btree (did)"),
    "post_replyparent_idx": ("post", 'btree ("replyParent") INCLUDE (uri)'),
}
