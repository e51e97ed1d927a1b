CREATE TABLE users (
    did varchar(255) PRIMARY KEY,
    handle varchar(255) NOT NULL,
    display_name varchar(255),
    created_at timestamp NOT NULL DEFAULT now(),
    indexed_at timestamp NOT NULL DEFAULT now()
);
CREATE TABLE user_settings (
    user_did varchar(255) PRIMARY KEY REFERENCES users (did) ON DELETE CASCADE,
    blocked_keywords jsonb NOT NULL DEFAULT '[]',
    muted_users jsonb NOT NULL DEFAULT '[]',
    custom_lists jsonb NOT NULL DEFAULT '[]',
    feed_preferences jsonb NOT NULL DEFAULT '{}',
    data_collection_forbidden boolean NOT NULL DEFAULT false,
    last_backfill_at timestamp,
    created_at timestamp NOT NULL DEFAULT now(),
    updated_at timestamp NOT NULL DEFAULT now()
);
CREATE TABLE label_definitions (
    id serial PRIMARY KEY,
    value varchar(128) NOT NULL CONSTRAINT label_definitions_value_unique UNIQUE,
    description text,
    severity varchar(32) NOT NULL DEFAULT 'warn',
    localized_strings jsonb DEFAULT '{}',
    created_at timestamp NOT NULL DEFAULT now(),
    updated_at timestamp NOT NULL DEFAULT now()
);
CREATE TABLE labels (
    uri varchar(512) PRIMARY KEY,
    src varchar(255) NOT NULL,
    subject varchar(512) NOT NULL,
    val varchar(128) NOT NULL,
    neg boolean NOT NULL DEFAULT false,
    created_at timestamp NOT NULL DEFAULT now(),
    indexed_at timestamp NOT NULL DEFAULT now()
);
CREATE INDEX idx_labels_src ON labels (src);
CREATE INDEX idx_labels_subject_val ON labels (subject, val);
CREATE TABLE mutes (
    uri varchar(512) PRIMARY KEY,
    muter_did varchar(255) NOT NULL,
    muted_did varchar(255) NOT NULL,
    created_at timestamp NOT NULL,
    indexed_at timestamp NOT NULL DEFAULT now(),
    CONSTRAINT unique_mute_muter_muted UNIQUE (muter_did, muted_did)
);
CREATE TABLE firehose_cursor (
    id serial PRIMARY KEY,
    service varchar(255) NOT NULL UNIQUE,
    cursor text,
    last_event_time timestamp,
    updated_at timestamp NOT NULL DEFAULT now()
);
