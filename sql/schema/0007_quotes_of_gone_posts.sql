-- Finds the posts that embed a record, also a deleted one: bsky.quote forgets a quote when the quoted post is deleted, but
-- a post gate that arrives later may still forbid it.

CREATE INDEX post_embed_record_embed_uri_idx ON bsky.post_embed_record ("embedUri");
