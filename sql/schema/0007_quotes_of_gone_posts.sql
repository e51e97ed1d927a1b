-- Finds the posts that embed a record, also a deleted one: bsky.quote forgets a quote when the quoted post is deleted, but
-- a post gate that arrives later may still forbid it.
--
-- Guarantees: the statement may be repeated, and keeps nobody from reading and writing the table. (It has no transaction
-- around it, like the files of schema/online.)

-- :embed_uri
-- Posts by the record that they embed.
CREATE INDEX CONCURRENTLY IF NOT EXISTS post_embed_record_embed_uri_idx ON bsky.post_embed_record ("embedUri");
