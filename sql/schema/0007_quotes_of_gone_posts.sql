-- Which posts embed a record, whether that is still there or not: bsky.quote forgets a quote when the quoted post goes, but
-- a post gate that arrives later may still forbid it.

create index post_embed_record_embed_uri_idx on bsky.post_embed_record ("embedUri");
