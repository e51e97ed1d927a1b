-- Which posts embed a record, whether that is still there or not: bsky.quote forgets a quote when the quoted post goes, but
-- a post gate that arrives later may still forbid it.

CREATE INDEX post_embed_record_embed_uri_idx ON bsky.post_embed_record ("embedUri");
