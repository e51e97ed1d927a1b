-- What the tables of schema bsky and their columns hold. Nothing but comments: Dagster shows them as the descriptions of
-- columns (store/columns.py), and psql by `\d+`.
--
-- Guarantees: every table and column has a comment of one line. Words are those of docs/glossary.md; an AT URI is
-- at://<DID>/<collection>/<record key>. Tables that the pipeline does not write say which program does.

-- ---------------------------------------------------------------------------------------------------------------------
-- Every record as it stands in its repository, and the newest commit of each repository.

COMMENT ON TABLE bsky.record IS
    'Every record of the indexed collections as JSON, in its newest state; all other tables are derived from it.';
COMMENT ON COLUMN bsky.record.uri IS 'AT URI of the record: at://<DID>/<collection>/<record key>.';
COMMENT ON COLUMN bsky.record.cid IS 'CID of the record in its newest state, as its commit names it.';
COMMENT ON COLUMN bsky.record.did IS 'DID of the account whose repository holds the record.';
COMMENT ON COLUMN bsky.record.json IS
    'The record as JSON, without NUL characters and without keys that readers cannot parse.';
COMMENT ON COLUMN bsky.record."indexedAt" IS
    'Time of the event that brought this state, as ISO 8601 in UTC with milliseconds.';
COMMENT ON COLUMN bsky.record."takedownRef" IS
    'Reference of the takedown that hides the record; null: visible. Written by the AppView''s moderation.';
COMMENT ON COLUMN bsky.record.tags IS
    'Array of the tags that moderation gives the record, such as hidden in threads. Not written by the pipeline.';
COMMENT ON COLUMN bsky.record.rev IS
    'Rev of the commit that wrote this state; null: unknown. An older rev never overwrites a newer one.';
COMMENT ON COLUMN bsky.record."appliedAt" IS 'When the pipeline wrote this state; reruns select their records by it.';

COMMENT ON TABLE bsky.duplicate_record IS
    'Duplicates: records that say the same as another one of their account. Promoted when that one is deleted or edited.';
COMMENT ON COLUMN bsky.duplicate_record.uri IS 'AT URI of the duplicate.';
COMMENT ON COLUMN bsky.duplicate_record.cid IS 'CID of the duplicate.';
COMMENT ON COLUMN bsky.duplicate_record."duplicateOf" IS
    'AT URI of the record that counts: the first by rev, then record key.';
COMMENT ON COLUMN bsky.duplicate_record."indexedAt" IS
    'Time of the event that brought the duplicate, as ISO 8601 in UTC.';

COMMENT ON TABLE bsky.actor_sync IS
    'The newest commit that was applied of each repository; the AppView serves its rev as Atproto-Repo-Rev.';
COMMENT ON COLUMN bsky.actor_sync.did IS 'DID of the account that owns the repository.';
COMMENT ON COLUMN bsky.actor_sync."commitCid" IS 'CID of the newest commit applied.';
COMMENT ON COLUMN bsky.actor_sync."repoRev" IS 'Rev of that commit; never goes back.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Accounts.

COMMENT ON TABLE bsky.actor IS 'Accounts that are known to have a repository, with their handle and status.';
COMMENT ON COLUMN bsky.actor.did IS 'DID of the account.';
COMMENT ON COLUMN bsky.actor.handle IS
    'Handle, confirmed by its domain and the DID document; null: readers see handle.invalid. Not resolved yet.';
COMMENT ON COLUMN bsky.actor."indexedAt" IS
    'Time of the event that brought the account or resolved its handle, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.actor."takedownRef" IS
    'Reference of the takedown that hides the account; null: visible. Written by the AppView''s moderation.';
COMMENT ON COLUMN bsky.actor."upstreamStatus" IS
    'Why an account is inactive: deactivated, suspended, takendown or deleted; null: active.';
COMMENT ON COLUMN bsky.actor."trustedVerifier" IS
    'Whether verifications by this account show as a badge. Set by the operator, never by the pipeline.';
COMMENT ON COLUMN bsky.actor."ageAssuranceStatus" IS
    'State of the age check: unknown, pending, assured or blocked. Written by the AppView.';
COMMENT ON COLUMN bsky.actor."ageAssuranceLastInitiatedAt" IS
    'When the account last began an age check, as ISO 8601 in UTC. Written by the AppView.';
COMMENT ON COLUMN bsky.actor."ageAssuranceAccess" IS
    'Access that the age check granted: unknown, none, safe or full. Written by the AppView.';
COMMENT ON COLUMN bsky.actor."ageAssuranceCountryCode" IS
    'Country of the age check, as ISO 3166-1 alpha-2. Written by the AppView.';
COMMENT ON COLUMN bsky.actor."ageAssuranceRegionCode" IS
    'Region of the age check, as ISO 3166-2. Written by the AppView.';

COMMENT ON TABLE bsky.actor_state IS
    'How far accounts have read their notifications. Written by the AppView for its own users; the pipeline neither writes nor reads it.';
COMMENT ON COLUMN bsky.actor_state.did IS 'DID of the account.';
COMMENT ON COLUMN bsky.actor_state."lastSeenNotifs" IS
    'Time up to which the account has seen its notifications, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.actor_state."priorityNotifs" IS
    'Whether the account wants only notifications by accounts that it follows.';

COMMENT ON TABLE bsky.profile IS 'Profiles of accounts, each from the record `self`. Written by the pipeline.';
COMMENT ON COLUMN bsky.profile.uri IS 'AT URI of the profile record; its record key is self.';
COMMENT ON COLUMN bsky.profile.cid IS 'CID of the profile record in its newest state.';
COMMENT ON COLUMN bsky.profile.creator IS 'DID of the account that the profile describes.';
COMMENT ON COLUMN bsky.profile."displayName" IS 'Name that the account gives itself; null: none.';
COMMENT ON COLUMN bsky.profile.description IS 'What the account writes of itself, free text; null: none.';
COMMENT ON COLUMN bsky.profile."avatarCid" IS 'CID of the image shown beside the account''s posts; null: none.';
COMMENT ON COLUMN bsky.profile."bannerCid" IS 'CID of the wide image behind the profile; null: none.';
COMMENT ON COLUMN bsky.profile."indexedAt" IS
    'Time of the event that brought this state of the profile, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.profile."joinedViaStarterPackUri" IS
    'AT URI of the starter pack by which the account joined; null: none.';
COMMENT ON COLUMN bsky.profile."createdAt" IS 'Time that the record states, unchanged; indexedAt where it states none.';
COMMENT ON COLUMN bsky.profile."pinnedPost" IS
    'Never written, as in the reference: readers take the pinned post from record.json.';
COMMENT ON COLUMN bsky.profile."pinnedPostCid" IS
    'Never written, as in the reference: readers take the pinned post from record.json.';

COMMENT ON TABLE bsky.profile_agg IS
    'Counters of accounts; they move in the transaction of the rows that they count and equal a recount.';
COMMENT ON COLUMN bsky.profile_agg.did IS 'DID of the account, whether or not it is indexed.';
COMMENT ON COLUMN bsky.profile_agg."followersCount" IS
    'Number of accounts that follow this one: rows of follow by subjectDid.';
COMMENT ON COLUMN bsky.profile_agg."followsCount" IS
    'Number of accounts that this one follows: rows of follow by creator.';
COMMENT ON COLUMN bsky.profile_agg."postsCount" IS
    'Number of posts by the account, replies and posts that gates hide included.';

COMMENT ON TABLE bsky.verification IS
    'Verifications: an account vouches for the handle and display name of another. Written by the pipeline.';
COMMENT ON COLUMN bsky.verification.uri IS 'AT URI of the verification record: at://<DID>/<collection>/<record key>.';
COMMENT ON COLUMN bsky.verification.cid IS 'CID of the verification record in its newest state.';
COMMENT ON COLUMN bsky.verification.creator IS 'DID of the account that verifies.';
COMMENT ON COLUMN bsky.verification.rkey IS 'Record key of the verification record: the last part of uri.';
COMMENT ON COLUMN bsky.verification.subject IS 'DID of the verified account.';
COMMENT ON COLUMN bsky.verification.handle IS
    'Handle of the subject when it was verified; the verification holds while the subject still has it.';
COMMENT ON COLUMN bsky.verification."displayName" IS
    'Display name of the subject when it was verified; holds while the subject still has it.';
COMMENT ON COLUMN bsky.verification."createdAt" IS
    'Time that the verification record states, as ISO 8601 in UTC with milliseconds; 1970 if it is not readable.';
COMMENT ON COLUMN bsky.verification."indexedAt" IS
    'Time of the event that brought this state of the verification, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.verification."sortedAt" IS
    'The earlier of createdAt and indexedAt, generated; readers sort by it, so a date in the future has no effect.';

COMMENT ON TABLE bsky.did_cache IS
    'The AppView''s cache of DID documents. Written by the AppView for its own users; the pipeline neither writes nor reads it.';
COMMENT ON COLUMN bsky.did_cache.did IS 'DID that was resolved.';
COMMENT ON COLUMN bsky.did_cache.doc IS 'Its DID document, as JSON.';
COMMENT ON COLUMN bsky.did_cache."updatedAt" IS 'When the document was fetched, in milliseconds since 1970-01-01 UTC.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Posts, what they embed, and what others do with them.

COMMENT ON TABLE bsky.post IS 'Posts, replies included, with what the gates say of them. Written by the pipeline.';
COMMENT ON COLUMN bsky.post.uri IS 'AT URI of the post record: at://<DID>/<collection>/<record key>.';
COMMENT ON COLUMN bsky.post.cid IS 'CID of the post record in its newest state.';
COMMENT ON COLUMN bsky.post.creator IS 'DID of the author.';
COMMENT ON COLUMN bsky.post.text IS 'Text of the post; empty if it only embeds something.';
COMMENT ON COLUMN bsky.post."replyRoot" IS
    'AT URI of the first post of the thread, as the reply names it; null: not a reply.';
COMMENT ON COLUMN bsky.post."replyRootCid" IS 'CID of the root that the reply names; null: not a reply.';
COMMENT ON COLUMN bsky.post."replyParent" IS 'AT URI of the record that the post replies to; null: not a reply.';
COMMENT ON COLUMN bsky.post."replyParentCid" IS 'CID of the parent that the reply names; null: not a reply.';
COMMENT ON COLUMN bsky.post."createdAt" IS
    'Time that the post record states, as ISO 8601 in UTC with milliseconds; 1970 if it is not readable.';
COMMENT ON COLUMN bsky.post."indexedAt" IS 'Time of the event that brought this state of the post, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.post."sortAt" IS
    'The earlier of createdAt and indexedAt, generated; readers sort by it, so a date in the future has no effect.';
COMMENT ON COLUMN bsky.post.langs IS 'Array of the languages that the author states, as BCP 47 tags; null: none.';
COMMENT ON COLUMN bsky.post."invalidReplyRoot" IS
    'True: parent missing, invalid or in another thread, as of the post''s rev; false: only the other flag; null: valid.';
COMMENT ON COLUMN bsky.post."violatesThreadGate" IS
    'True: the thread gate forbids the reply, as of the post''s rev; false: only the other flag; null: allowed.';
COMMENT ON COLUMN bsky.post.tags IS 'Array of hashtags beside those in the text; null: none.';
COMMENT ON COLUMN bsky.post."violatesEmbeddingRules" IS
    'True: the post gate of the quoted post forbids the quote, as of the post''s own rev; null: allowed.';
COMMENT ON COLUMN bsky.post."hasThreadGate" IS
    'True: the post has a thread gate; false: it had one that was deleted; null: it never had one.';
COMMENT ON COLUMN bsky.post."hasPostGate" IS
    'True: the post has a post gate; false: it had one that was deleted; null: it never had one.';

COMMENT ON TABLE bsky.post_agg IS
    'Counters of posts and other records; they move in the transaction of the rows they count and equal a recount.';
COMMENT ON COLUMN bsky.post_agg.uri IS
    'AT URI of the record that is liked, answered, reposted or quoted, whether or not it is indexed.';
COMMENT ON COLUMN bsky.post_agg."likeCount" IS 'Number of likes: rows of like by subject, one an account.';
COMMENT ON COLUMN bsky.post_agg."replyCount" IS 'Number of direct replies, without those that violate the thread gate.';
COMMENT ON COLUMN bsky.post_agg."repostCount" IS 'Number of reposts: rows of repost by subject, one an account.';
COMMENT ON COLUMN bsky.post_agg."quoteCount" IS 'Number of quotes: rows of quote by subject, whatever CID they name.';
COMMENT ON COLUMN bsky.post_agg."bookmarkCount" IS
    'Number of bookmarks. Moved by the AppView; the pipeline only recounts it.';

COMMENT ON TABLE bsky.post_embed_image IS 'Images of posts. Written by the pipeline.';
COMMENT ON COLUMN bsky.post_embed_image."postUri" IS 'AT URI of the post.';
COMMENT ON COLUMN bsky.post_embed_image.position IS 'Place of the image in the post, counted from 0, as decimal text.';
COMMENT ON COLUMN bsky.post_embed_image."imageCid" IS 'CID of the image blob.';
COMMENT ON COLUMN bsky.post_embed_image.alt IS 'Description of the image for those who cannot see it; may be empty.';

COMMENT ON TABLE bsky.post_embed_external IS 'Links that posts show as a card. Written by the pipeline.';
COMMENT ON COLUMN bsky.post_embed_external."postUri" IS 'AT URI of the post.';
COMMENT ON COLUMN bsky.post_embed_external.uri IS 'URL of the page that the card links to.';
COMMENT ON COLUMN bsky.post_embed_external.title IS 'Title of the card.';
COMMENT ON COLUMN bsky.post_embed_external.description IS 'Text of the card.';
COMMENT ON COLUMN bsky.post_embed_external."thumbCid" IS 'CID of the card''s image; null: none.';

COMMENT ON TABLE bsky.post_embed_record IS
    'Records that posts embed: quoted posts, lists, feed generators, ... They stay when that record is deleted.';
COMMENT ON COLUMN bsky.post_embed_record."postUri" IS 'AT URI of the post.';
COMMENT ON COLUMN bsky.post_embed_record."embedUri" IS 'AT URI of the embedded record.';
COMMENT ON COLUMN bsky.post_embed_record."embedCid" IS 'CID of the embedded record that the post names.';

COMMENT ON TABLE bsky.post_embed_video IS 'Videos of posts. Written by the pipeline.';
COMMENT ON COLUMN bsky.post_embed_video."postUri" IS 'AT URI of the post.';
COMMENT ON COLUMN bsky.post_embed_video."videoCid" IS 'CID of the video blob.';
COMMENT ON COLUMN bsky.post_embed_video.alt IS 'Description of the video for those who cannot see it; null: none.';

COMMENT ON TABLE bsky.post_embed_gallery_image IS 'Images of posts that embed a gallery. Written by the pipeline.';
COMMENT ON COLUMN bsky.post_embed_gallery_image."postUri" IS 'AT URI of the post.';
COMMENT ON COLUMN bsky.post_embed_gallery_image.position IS
    'Place of the image in the gallery, counted from 0 with items that are not images, as decimal text.';
COMMENT ON COLUMN bsky.post_embed_gallery_image."imageCid" IS 'CID of the image blob.';
COMMENT ON COLUMN bsky.post_embed_gallery_image.alt IS
    'Description of the image for those who cannot see it; may be empty.';

COMMENT ON TABLE bsky.quote IS
    'Posts that quote posts. A row goes when the quoted post is deleted. Written by the pipeline.';
COMMENT ON COLUMN bsky.quote.uri IS 'AT URI of the post that quotes.';
COMMENT ON COLUMN bsky.quote.cid IS 'CID of the post that quotes, in its newest state.';
COMMENT ON COLUMN bsky.quote.subject IS 'AT URI of the quoted post.';
COMMENT ON COLUMN bsky.quote."subjectCid" IS 'CID of the quoted post that the quote names.';
COMMENT ON COLUMN bsky.quote."createdAt" IS
    'Time that the post record states, as ISO 8601 in UTC with milliseconds; 1970 if it is not readable.';
COMMENT ON COLUMN bsky.quote."indexedAt" IS
    'Time of the event that brought this state of the post, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.quote."sortAt" IS
    'The earlier of createdAt and indexedAt, generated; readers sort by it, so a date in the future has no effect.';

COMMENT ON TABLE bsky."like" IS
    'Likes of posts, feed generators, labelers and lists: one an account and subject. Written by the pipeline.';
COMMENT ON COLUMN bsky."like".uri IS 'AT URI of the like record: at://<DID>/<collection>/<record key>.';
COMMENT ON COLUMN bsky."like".cid IS 'CID of the like record in its newest state.';
COMMENT ON COLUMN bsky."like".creator IS 'DID of the account that likes.';
COMMENT ON COLUMN bsky."like".subject IS 'AT URI of the liked record.';
COMMENT ON COLUMN bsky."like"."subjectCid" IS 'CID of the liked record that the like names.';
COMMENT ON COLUMN bsky."like"."createdAt" IS
    'Time that the like record states, as ISO 8601 in UTC with milliseconds; 1970 if it is not readable.';
COMMENT ON COLUMN bsky."like"."indexedAt" IS
    'Time of the event that brought this state of the like, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky."like"."sortAt" IS
    'The earlier of createdAt and indexedAt, generated; readers sort by it, so a date in the future has no effect.';
COMMENT ON COLUMN bsky."like".via IS 'AT URI of the repost by which the account found the subject; null: not stated.';
COMMENT ON COLUMN bsky."like"."viaCid" IS 'CID of that repost; null: not stated.';

COMMENT ON TABLE bsky.repost IS 'Reposts: one an account and subject. Written by the pipeline.';
COMMENT ON COLUMN bsky.repost.uri IS 'AT URI of the repost record: at://<DID>/<collection>/<record key>.';
COMMENT ON COLUMN bsky.repost.cid IS 'CID of the repost record in its newest state.';
COMMENT ON COLUMN bsky.repost.creator IS 'DID of the account that reposts.';
COMMENT ON COLUMN bsky.repost.subject IS 'AT URI of the reposted record.';
COMMENT ON COLUMN bsky.repost."subjectCid" IS 'CID of the reposted record that the repost names.';
COMMENT ON COLUMN bsky.repost."createdAt" IS
    'Time that the repost record states, as ISO 8601 in UTC with milliseconds; 1970 if it is not readable.';
COMMENT ON COLUMN bsky.repost."indexedAt" IS
    'Time of the event that brought this state of the repost, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.repost."sortAt" IS
    'The earlier of createdAt and indexedAt, generated; readers sort by it, so a date in the future has no effect.';
COMMENT ON COLUMN bsky.repost.via IS 'AT URI of the repost by which the account found the subject; null: not stated.';
COMMENT ON COLUMN bsky.repost."viaCid" IS 'CID of that repost; null: not stated.';

COMMENT ON TABLE bsky.thread_gate IS
    'Thread gates: which accounts may reply to a post. The rules are in record.json. Written by the pipeline.';
COMMENT ON COLUMN bsky.thread_gate.uri IS 'AT URI of the thread gate record: at://<DID>/<collection>/<record key>.';
COMMENT ON COLUMN bsky.thread_gate.cid IS 'CID of the thread gate record in its newest state.';
COMMENT ON COLUMN bsky.thread_gate.creator IS 'DID of the author of the gate and of its post.';
COMMENT ON COLUMN bsky.thread_gate."postUri" IS
    'AT URI of the post that begins the thread; it has the gate''s record key.';
COMMENT ON COLUMN bsky.thread_gate."createdAt" IS
    'Time that the thread gate record states, as ISO 8601 in UTC with milliseconds; 1970 if it is not readable.';
COMMENT ON COLUMN bsky.thread_gate."indexedAt" IS
    'Time of the event that brought this state of the thread gate, as ISO 8601 in UTC.';

COMMENT ON TABLE bsky.post_gate IS
    'Post gates: whether a post may be quoted. The rules are in record.json. Written by the pipeline.';
COMMENT ON COLUMN bsky.post_gate.uri IS 'AT URI of the post gate record: at://<DID>/<collection>/<record key>.';
COMMENT ON COLUMN bsky.post_gate.cid IS 'CID of the post gate record in its newest state.';
COMMENT ON COLUMN bsky.post_gate.creator IS 'DID of the author of the gate and of its post.';
COMMENT ON COLUMN bsky.post_gate."postUri" IS 'AT URI of the post; it has the gate''s record key.';
COMMENT ON COLUMN bsky.post_gate."createdAt" IS
    'Time that the post gate record states, as ISO 8601 in UTC with milliseconds; 1970 if it is not readable.';
COMMENT ON COLUMN bsky.post_gate."indexedAt" IS
    'Time of the event that brought this state of the post gate, as ISO 8601 in UTC.';

COMMENT ON TABLE bsky.op_thread_reply IS
    'Replies that authors wrote in threads of their own, deleted ones included. Written by the pipeline.';
COMMENT ON COLUMN bsky.op_thread_reply."rootUri" IS 'AT URI of the post that begins the thread.';
COMMENT ON COLUMN bsky.op_thread_reply."parentUri" IS 'AT URI of the record that the reply answers.';
COMMENT ON COLUMN bsky.op_thread_reply.uri IS 'AT URI of the reply, by the author of the root.';
COMMENT ON COLUMN bsky.op_thread_reply."deletedAt" IS
    'Time of the event that deleted the reply, as ISO 8601 in UTC; null: it is there.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Feeds and suggestions.

COMMENT ON TABLE bsky.feed_item IS
    'Entries of author feeds and timelines: each post, and each repost of a post that is not deleted. Written by the pipeline.';
COMMENT ON COLUMN bsky.feed_item.uri IS 'AT URI of the post or repost.';
COMMENT ON COLUMN bsky.feed_item.cid IS 'CID of the post or repost.';
COMMENT ON COLUMN bsky.feed_item.type IS 'Kind of entry: post or repost.';
COMMENT ON COLUMN bsky.feed_item."postUri" IS
    'AT URI of the post that the entry shows: uri itself, or the subject of the repost.';
COMMENT ON COLUMN bsky.feed_item."originatorDid" IS
    'DID of the account that posted or reposted: the entry is in its feed.';
COMMENT ON COLUMN bsky.feed_item."sortAt" IS
    'The earlier of createdAt and indexedAt of the post or repost, as ISO 8601 in UTC; readers sort by it.';

COMMENT ON TABLE bsky.feed_generator IS
    'Feed generators: custom feeds that a service computes. Written by the pipeline.';
COMMENT ON COLUMN bsky.feed_generator.uri IS
    'AT URI of the feed generator record: at://<DID>/<collection>/<record key>.';
COMMENT ON COLUMN bsky.feed_generator.cid IS 'CID of the feed generator record in its newest state.';
COMMENT ON COLUMN bsky.feed_generator.creator IS 'DID of the account that offers the feed.';
COMMENT ON COLUMN bsky.feed_generator."feedDid" IS 'DID of the service that computes the feed.';
COMMENT ON COLUMN bsky.feed_generator."displayName" IS 'Name of the feed.';
COMMENT ON COLUMN bsky.feed_generator.description IS 'What the feed shows, free text; null: none.';
COMMENT ON COLUMN bsky.feed_generator."descriptionFacets" IS
    'Links and mentions in description (app.bsky.richtext.facet), as JSON text; null: none.';
COMMENT ON COLUMN bsky.feed_generator."avatarCid" IS 'CID of the feed''s image; null: none.';
COMMENT ON COLUMN bsky.feed_generator."createdAt" IS
    'Time that the feed generator record states, as ISO 8601 in UTC with milliseconds; 1970 if it is not readable.';
COMMENT ON COLUMN bsky.feed_generator."indexedAt" IS
    'Time of the event that brought this state of the feed generator, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.feed_generator."sortAt" IS
    'The earlier of createdAt and indexedAt, generated; readers sort by it, so a date in the future has no effect.';

COMMENT ON TABLE bsky.suggested_feed IS
    'Feeds that the AppView suggests. Filled by the operator; the pipeline neither writes nor reads it.';
COMMENT ON COLUMN bsky.suggested_feed.uri IS 'AT URI of the feed generator.';
COMMENT ON COLUMN bsky.suggested_feed."order" IS 'Place in the list of suggestions, smallest first.';

COMMENT ON TABLE bsky.suggested_follow IS
    'Accounts that the AppView suggests. Filled by the operator; the pipeline neither writes nor reads it.';
COMMENT ON COLUMN bsky.suggested_follow.did IS 'DID of the account.';
COMMENT ON COLUMN bsky.suggested_follow."order" IS 'Place in the list of suggestions, smallest first.';

COMMENT ON TABLE bsky.tagged_suggestion IS
    'Suggestions by topic. Filled by the operator; the pipeline neither writes nor reads it.';
COMMENT ON COLUMN bsky.tagged_suggestion.tag IS 'Topic that the suggestion belongs to.';
COMMENT ON COLUMN bsky.tagged_suggestion.subject IS 'DID of the suggested account or AT URI of the suggested feed.';
COMMENT ON COLUMN bsky.tagged_suggestion."subjectType" IS 'Kind of subject: actor or feed.';

COMMENT ON TABLE bsky.view_param IS
    'Parameters of algo_whats_hot_view. Changed by the operator; the pipeline does not write it.';
COMMENT ON COLUMN bsky.view_param.name IS 'Name of the parameter: whats_hot_interval or whats_hot_like_threshold.';
COMMENT ON COLUMN bsky.view_param.value IS
    'Its value: a PostgreSQL interval, or the number of likes that a post must exceed.';

COMMENT ON MATERIALIZED VIEW bsky.algo_whats_hot_view IS
    'Popular recent posts that are not replies. Refreshed by the operator, never by the pipeline.';
COMMENT ON COLUMN bsky.algo_whats_hot_view.uri IS 'AT URI of the post.';
COMMENT ON COLUMN bsky.algo_whats_hot_view.cid IS 'CID of the post.';
COMMENT ON COLUMN bsky.algo_whats_hot_view.score IS
    '1,000,000 times the likes, divided by (age in hours + 2) to the power of 1.8, rounded, at the last refresh.';

-- ---------------------------------------------------------------------------------------------------------------------
-- The social graph.

COMMENT ON TABLE bsky.follow IS 'Follows: one an account and followed account. Written by the pipeline.';
COMMENT ON COLUMN bsky.follow.uri IS 'AT URI of the follow record: at://<DID>/<collection>/<record key>.';
COMMENT ON COLUMN bsky.follow.cid IS 'CID of the follow record in its newest state.';
COMMENT ON COLUMN bsky.follow.creator IS 'DID of the account that follows.';
COMMENT ON COLUMN bsky.follow."subjectDid" IS 'DID of the followed account.';
COMMENT ON COLUMN bsky.follow."createdAt" IS
    'Time that the follow record states, as ISO 8601 in UTC with milliseconds; 1970 if it is not readable.';
COMMENT ON COLUMN bsky.follow."indexedAt" IS
    'Time of the event that brought this state of the follow, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.follow."sortAt" IS
    'The earlier of createdAt and indexedAt, generated; readers sort by it, so a date in the future has no effect.';

COMMENT ON TABLE bsky.actor_block IS 'Blocks of accounts: one an account and blocked account. Written by the pipeline.';
COMMENT ON COLUMN bsky.actor_block.uri IS 'AT URI of the block record: at://<DID>/<collection>/<record key>.';
COMMENT ON COLUMN bsky.actor_block.cid IS 'CID of the block record in its newest state.';
COMMENT ON COLUMN bsky.actor_block.creator IS 'DID of the account that blocks.';
COMMENT ON COLUMN bsky.actor_block."subjectDid" IS 'DID of the blocked account.';
COMMENT ON COLUMN bsky.actor_block."createdAt" IS
    'Time that the block record states, as ISO 8601 in UTC with milliseconds; 1970 if it is not readable.';
COMMENT ON COLUMN bsky.actor_block."indexedAt" IS
    'Time of the event that brought this state of the block, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.actor_block."sortAt" IS
    'The earlier of createdAt and indexedAt, generated; readers sort by it, so a date in the future has no effect.';

COMMENT ON TABLE bsky.list IS 'Lists of accounts; their members are in list_item. Written by the pipeline.';
COMMENT ON COLUMN bsky.list.uri IS 'AT URI of the list record: at://<DID>/<collection>/<record key>.';
COMMENT ON COLUMN bsky.list.cid IS 'CID of the list record in its newest state.';
COMMENT ON COLUMN bsky.list.creator IS 'DID of the account that owns the list.';
COMMENT ON COLUMN bsky.list.name IS 'Name of the list.';
COMMENT ON COLUMN bsky.list.purpose IS
    'app.bsky.graph.defs#modlist (to mute or block), #curatelist (to read) or #referencelist (a starter pack''s).';
COMMENT ON COLUMN bsky.list.description IS 'What the list is for, free text; null: none.';
COMMENT ON COLUMN bsky.list."descriptionFacets" IS
    'Links and mentions in description (app.bsky.richtext.facet), as JSON text; null: none.';
COMMENT ON COLUMN bsky.list."avatarCid" IS 'CID of the list''s image; null: none.';
COMMENT ON COLUMN bsky.list."createdAt" IS
    'Time that the list record states, as ISO 8601 in UTC with milliseconds; 1970 if it is not readable.';
COMMENT ON COLUMN bsky.list."indexedAt" IS 'Time of the event that brought this state of the list, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.list."sortAt" IS
    'The earlier of createdAt and indexedAt, generated; readers sort by it, so a date in the future has no effect.';

COMMENT ON TABLE bsky.list_item IS 'Members of lists: one a list and account. Written by the pipeline.';
COMMENT ON COLUMN bsky.list_item.uri IS 'AT URI of the list item record: at://<DID>/<collection>/<record key>.';
COMMENT ON COLUMN bsky.list_item.cid IS 'CID of the list item record in its newest state.';
COMMENT ON COLUMN bsky.list_item.creator IS 'DID of the account that owns the list and wrote the item.';
COMMENT ON COLUMN bsky.list_item."subjectDid" IS 'DID of the account that is on the list.';
COMMENT ON COLUMN bsky.list_item."listUri" IS 'AT URI of the list.';
COMMENT ON COLUMN bsky.list_item."createdAt" IS
    'Time that the list item record states, as ISO 8601 in UTC with milliseconds; 1970 if it is not readable.';
COMMENT ON COLUMN bsky.list_item."indexedAt" IS
    'Time of the event that brought this state of the list item, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.list_item."sortAt" IS
    'The earlier of createdAt and indexedAt, generated; readers sort by it, so a date in the future has no effect.';

COMMENT ON TABLE bsky.list_block IS 'Blocks of whole lists: one an account and list. Written by the pipeline.';
COMMENT ON COLUMN bsky.list_block.uri IS 'AT URI of the list block record: at://<DID>/<collection>/<record key>.';
COMMENT ON COLUMN bsky.list_block.cid IS 'CID of the list block record in its newest state.';
COMMENT ON COLUMN bsky.list_block.creator IS 'DID of the account that blocks.';
COMMENT ON COLUMN bsky.list_block."subjectUri" IS 'AT URI of the list whose members are blocked.';
COMMENT ON COLUMN bsky.list_block."createdAt" IS
    'Time that the list block record states, as ISO 8601 in UTC with milliseconds; 1970 if it is not readable.';
COMMENT ON COLUMN bsky.list_block."indexedAt" IS
    'Time of the event that brought this state of the list block, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.list_block."sortAt" IS
    'The earlier of createdAt and indexedAt, generated; readers sort by it, so a date in the future has no effect.';

COMMENT ON TABLE bsky.reference_list_opt_out IS
    'Accounts that ask not to be shown on a reference list: one an account and list. Written by the pipeline.';
COMMENT ON COLUMN bsky.reference_list_opt_out.uri IS
    'AT URI of the opt-out record: at://<DID>/<collection>/<record key>.';
COMMENT ON COLUMN bsky.reference_list_opt_out.cid IS 'CID of the opt-out record in its newest state.';
COMMENT ON COLUMN bsky.reference_list_opt_out.creator IS 'DID of the account that asks not to be shown.';
COMMENT ON COLUMN bsky.reference_list_opt_out."subjectUri" IS 'AT URI of the reference list.';
COMMENT ON COLUMN bsky.reference_list_opt_out."createdAt" IS
    'Time that the opt-out record states, as ISO 8601 in UTC with milliseconds; 1970 if it is not readable.';
COMMENT ON COLUMN bsky.reference_list_opt_out."indexedAt" IS
    'Time of the event that brought this state of the opt-out, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.reference_list_opt_out."sortAt" IS
    'The earlier of createdAt and indexedAt, generated; readers sort by it, so a date in the future has no effect.';

COMMENT ON TABLE bsky.starter_pack IS
    'Starter packs: accounts and feeds to begin with. The contents are in record.json. Written by the pipeline.';
COMMENT ON COLUMN bsky.starter_pack.uri IS 'AT URI of the starter pack record: at://<DID>/<collection>/<record key>.';
COMMENT ON COLUMN bsky.starter_pack.cid IS 'CID of the starter pack record in its newest state.';
COMMENT ON COLUMN bsky.starter_pack.creator IS 'DID of the account that made the pack.';
COMMENT ON COLUMN bsky.starter_pack."createdAt" IS
    'Time that the starter pack record states, as ISO 8601 in UTC with milliseconds; 1970 if it is not readable.';
COMMENT ON COLUMN bsky.starter_pack."indexedAt" IS
    'Time of the event that brought this state of the starter pack, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.starter_pack."sortAt" IS
    'The earlier of createdAt and indexedAt, generated; readers sort by it, so a date in the future has no effect.';
COMMENT ON COLUMN bsky.starter_pack.name IS 'Name of the starter pack.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Labels and labelers.

COMMENT ON TABLE bsky.label IS
    'Labels that labelers put on accounts and records. Not written yet: the pipeline does not read label streams.';
COMMENT ON COLUMN bsky.label.src IS 'DID of the labeler.';
COMMENT ON COLUMN bsky.label.uri IS 'AT URI of the labelled record, or DID of the labelled account.';
COMMENT ON COLUMN bsky.label.cid IS 'CID of the one state of the record that is labelled; empty: every state.';
COMMENT ON COLUMN bsky.label.val IS 'Value of the label, such as spam.';
COMMENT ON COLUMN bsky.label.neg IS 'Whether the label takes back an earlier one.';
COMMENT ON COLUMN bsky.label.cts IS 'When the labeler made the label, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.label.exp IS 'When the label ends, as ISO 8601 in UTC; null: never.';

COMMENT ON TABLE bsky.labeler IS
    'Accounts that offer a labeling service, each by its record `self`. Written by the pipeline.';
COMMENT ON COLUMN bsky.labeler.uri IS 'AT URI of the labeler record: at://<DID>/<collection>/<record key>.';
COMMENT ON COLUMN bsky.labeler.cid IS 'CID of the labeler record in its newest state.';
COMMENT ON COLUMN bsky.labeler.creator IS 'DID of the account that offers labels.';
COMMENT ON COLUMN bsky.labeler."createdAt" IS
    'Time that the labeler record states, as ISO 8601 in UTC with milliseconds; 1970 if it is not readable.';
COMMENT ON COLUMN bsky.labeler."indexedAt" IS
    'Time of the event that brought this state of the labeler, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.labeler."sortAt" IS
    'The earlier of createdAt and indexedAt, generated; readers sort by it, so a date in the future has no effect.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Notifications.

COMMENT ON TABLE bsky.notification IS
    'Notifications: one an account, record and reason, however often the record arrives. Written by the pipeline.';
COMMENT ON COLUMN bsky.notification.id IS 'Number of the notification, from a sequence.';
COMMENT ON COLUMN bsky.notification.did IS 'DID of the account that is notified.';
COMMENT ON COLUMN bsky.notification."recordUri" IS
    'AT URI of the record that notifies: a post, like, repost, follow, profile or verification.';
COMMENT ON COLUMN bsky.notification."recordCid" IS 'CID of that record.';
COMMENT ON COLUMN bsky.notification.author IS 'DID of the account that wrote the record.';
COMMENT ON COLUMN bsky.notification.reason IS
    'Why: like, repost, follow, mention, reply, quote, verified, subscribed-post, like-via-repost, ...';
COMMENT ON COLUMN bsky.notification."reasonSubject" IS
    'AT URI that the reason is about: the liked, reposted, quoted or answered record; null: the account itself.';
COMMENT ON COLUMN bsky.notification."sortAt" IS
    'Time by which readers sort, as ISO 8601 in UTC; usually the earlier of createdAt and indexedAt of the record.';

COMMENT ON TABLE bsky.notification_push_token IS
    'Devices that receive notifications. Written by the AppView for its own users; the pipeline neither writes nor reads it.';
COMMENT ON COLUMN bsky.notification_push_token.did IS 'DID of the account that is notified.';
COMMENT ON COLUMN bsky.notification_push_token.platform IS 'Platform of the device: ios, android or web.';
COMMENT ON COLUMN bsky.notification_push_token.token IS 'Token by which the push service reaches the device. Private.';
COMMENT ON COLUMN bsky.notification_push_token."appId" IS 'Identifier of the app on the device.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Private state of this AppView's own users.

COMMENT ON TABLE bsky.mute IS
    'Accounts that accounts have muted. Written by the AppView for its own users; the pipeline neither writes nor reads it.';
COMMENT ON COLUMN bsky.mute."subjectDid" IS 'DID of the muted account.';
COMMENT ON COLUMN bsky.mute."mutedByDid" IS 'DID of the account that does not want to see it.';
COMMENT ON COLUMN bsky.mute."createdAt" IS 'When it was muted, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.mute."onlyReposts" IS 'Whether only reposts by the account are muted.';
COMMENT ON COLUMN bsky.mute."onlyQuoteposts" IS 'Whether only quotes by the account are muted.';

COMMENT ON TABLE bsky.list_mute IS
    'Lists whose members accounts have muted. Written by the AppView for its own users; the pipeline neither writes nor reads it.';
COMMENT ON COLUMN bsky.list_mute."listUri" IS 'AT URI of the list.';
COMMENT ON COLUMN bsky.list_mute."mutedByDid" IS 'DID of the account that does not want to see its members.';
COMMENT ON COLUMN bsky.list_mute."createdAt" IS 'When it was muted, as ISO 8601 in UTC.';

COMMENT ON TABLE bsky.thread_mute IS
    'Threads of which accounts want no notifications. Written by the AppView for its own users; the pipeline only reads it.';
COMMENT ON COLUMN bsky.thread_mute."rootUri" IS 'AT URI of the post that begins the thread.';
COMMENT ON COLUMN bsky.thread_mute."mutedByDid" IS 'DID of the account that gets no notifications of the thread.';
COMMENT ON COLUMN bsky.thread_mute."createdAt" IS 'When it was muted, as ISO 8601 in UTC.';

COMMENT ON TABLE bsky.activity_subscription IS
    'Accounts whose posts notify others. Written by the AppView for its own users; the pipeline only reads it.';
COMMENT ON COLUMN bsky.activity_subscription.creator IS 'DID of the account that is notified.';
COMMENT ON COLUMN bsky.activity_subscription."subjectDid" IS 'DID of the account whose posts notify.';
COMMENT ON COLUMN bsky.activity_subscription.key IS 'Identifier of the subscription, unique for its creator.';
COMMENT ON COLUMN bsky.activity_subscription."indexedAt" IS 'When the subscription was stored, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.activity_subscription.post IS 'Whether posts that are not replies notify.';
COMMENT ON COLUMN bsky.activity_subscription.reply IS 'Whether replies notify.';

COMMENT ON TABLE bsky.bookmark IS
    'Posts that accounts have saved for themselves. Written by the AppView for its own users; the pipeline only counts it.';
COMMENT ON COLUMN bsky.bookmark.creator IS 'DID of the account that saved the post.';
COMMENT ON COLUMN bsky.bookmark.key IS 'Identifier of the bookmark, unique for its creator.';
COMMENT ON COLUMN bsky.bookmark."subjectUri" IS 'AT URI of the post.';
COMMENT ON COLUMN bsky.bookmark."subjectCid" IS 'CID of the post when it was saved.';
COMMENT ON COLUMN bsky.bookmark."indexedAt" IS 'When the bookmark was stored, as ISO 8601 in UTC.';

COMMENT ON TABLE bsky.draft IS
    'Posts that accounts have not published yet. Written by the AppView for its own users; the pipeline neither writes nor reads it.';
COMMENT ON COLUMN bsky.draft.creator IS 'DID of the author.';
COMMENT ON COLUMN bsky.draft.key IS 'Identifier of the draft (a TID), unique for its creator.';
COMMENT ON COLUMN bsky.draft."createdAt" IS 'When the draft was made, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.draft."updatedAt" IS 'When the draft was last changed, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.draft.payload IS 'The draft (app.bsky.draft.defs#draft), as JSON text.';

COMMENT ON TABLE bsky.private_data IS
    'Other private data of accounts, such as settings. Written by the AppView for its own users; the pipeline neither writes nor reads it.';
COMMENT ON COLUMN bsky.private_data."actorDid" IS 'DID of the account.';
COMMENT ON COLUMN bsky.private_data.namespace IS 'NSID that says what kind of data it is.';
COMMENT ON COLUMN bsky.private_data.key IS 'Key of the entry within its namespace.';
COMMENT ON COLUMN bsky.private_data.payload IS 'The data, as JSON text.';
COMMENT ON COLUMN bsky.private_data."indexedAt" IS 'When the entry was first stored, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.private_data."updatedAt" IS 'When the entry was last changed, as ISO 8601 in UTC.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Moderation. The tables moderation_* are of earlier AppViews; the reference's migrations still create them.

COMMENT ON TABLE bsky.blob_takedown IS
    'Images and videos that moderation hides. Written by the AppView; the pipeline does not read it.';
COMMENT ON COLUMN bsky.blob_takedown.did IS 'DID of the account that published the blob.';
COMMENT ON COLUMN bsky.blob_takedown.cid IS 'CID of the blob.';
COMMENT ON COLUMN bsky.blob_takedown."takedownRef" IS 'Reference of the takedown.';

COMMENT ON TABLE bsky.moderation_action IS
    'Moderation of earlier AppViews: kept for the reference''s migrator, written and read by nobody here.';
COMMENT ON COLUMN bsky.moderation_action.id IS 'Number of the action.';
COMMENT ON COLUMN bsky.moderation_action."subjectType" IS 'Kind of subject: an account or a record.';
COMMENT ON COLUMN bsky.moderation_action."subjectDid" IS 'DID of the account that it is about.';
COMMENT ON COLUMN bsky.moderation_action."subjectUri" IS 'AT URI of the record that it is about; null: the account.';
COMMENT ON COLUMN bsky.moderation_action."subjectCid" IS 'CID of that record; null: the account.';
COMMENT ON COLUMN bsky.moderation_action.reason IS 'Why it was done.';
COMMENT ON COLUMN bsky.moderation_action.action IS 'What was done, such as a takedown or a label.';
COMMENT ON COLUMN bsky.moderation_action."createdAt" IS 'When it was done, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.moderation_action."createdBy" IS 'DID of the moderator.';
COMMENT ON COLUMN bsky.moderation_action."reversedAt" IS 'When it was undone, as ISO 8601 in UTC; null: it was not.';
COMMENT ON COLUMN bsky.moderation_action."reversedBy" IS 'DID of the moderator who undid it; null: it was not undone.';
COMMENT ON COLUMN bsky.moderation_action."reversedReason" IS 'Why it was undone; null: it was not.';
COMMENT ON COLUMN bsky.moderation_action."createLabelVals" IS
    'Values of the labels that it added, separated by spaces; null: none.';
COMMENT ON COLUMN bsky.moderation_action."negateLabelVals" IS
    'Values of the labels that it took back, separated by spaces; null: none.';
COMMENT ON COLUMN bsky.moderation_action."durationInHours" IS 'How long it lasts, in hours; null: for ever.';
COMMENT ON COLUMN bsky.moderation_action."expiresAt" IS 'When it ends, as ISO 8601 in UTC; null: never.';

COMMENT ON TABLE bsky.moderation_action_subject_blob IS
    'Moderation of earlier AppViews: kept for the reference''s migrator, written and read by nobody here.';
COMMENT ON COLUMN bsky.moderation_action_subject_blob."actionId" IS 'Number of the action: moderation_action.id.';
COMMENT ON COLUMN bsky.moderation_action_subject_blob.cid IS 'CID of a blob that it is about.';

COMMENT ON TABLE bsky.moderation_event IS
    'Moderation of earlier AppViews: kept for the reference''s migrator, written and read by nobody here.';
COMMENT ON COLUMN bsky.moderation_event.id IS 'Number of the event.';
COMMENT ON COLUMN bsky.moderation_event."subjectType" IS 'Kind of subject: an account or a record.';
COMMENT ON COLUMN bsky.moderation_event."subjectDid" IS 'DID of the account that it is about.';
COMMENT ON COLUMN bsky.moderation_event."subjectUri" IS 'AT URI of the record that it is about; null: the account.';
COMMENT ON COLUMN bsky.moderation_event."subjectCid" IS 'CID of that record; null: the account.';
COMMENT ON COLUMN bsky.moderation_event.comment IS 'What the moderator noted; null: nothing.';
COMMENT ON COLUMN bsky.moderation_event.meta IS 'Details of the event, as JSON; null: none.';
COMMENT ON COLUMN bsky.moderation_event.action IS 'What was done, such as a takedown or a label.';
COMMENT ON COLUMN bsky.moderation_event."createdAt" IS 'When it was done, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.moderation_event."createdBy" IS 'DID of the moderator.';
COMMENT ON COLUMN bsky.moderation_event."reversedAt" IS 'When it was undone, as ISO 8601 in UTC; null: it was not.';
COMMENT ON COLUMN bsky.moderation_event."reversedBy" IS 'DID of the moderator who undid it; null: it was not undone.';
COMMENT ON COLUMN bsky.moderation_event."reversedReason" IS 'Why it was undone; null: it was not.';
COMMENT ON COLUMN bsky.moderation_event."createLabelVals" IS
    'Values of the labels that it added, separated by spaces; null: none.';
COMMENT ON COLUMN bsky.moderation_event."negateLabelVals" IS
    'Values of the labels that it took back, separated by spaces; null: none.';
COMMENT ON COLUMN bsky.moderation_event."durationInHours" IS 'How long it lasts, in hours; null: for ever.';
COMMENT ON COLUMN bsky.moderation_event."expiresAt" IS 'When it ends, as ISO 8601 in UTC; null: never.';
COMMENT ON COLUMN bsky.moderation_event."legacyRefId" IS 'Number of the action that it was made from; null: none.';

COMMENT ON TABLE bsky.moderation_report IS
    'Moderation of earlier AppViews: kept for the reference''s migrator, written and read by nobody here.';
COMMENT ON COLUMN bsky.moderation_report.id IS 'Number of the report.';
COMMENT ON COLUMN bsky.moderation_report."subjectType" IS 'Kind of subject: an account or a record.';
COMMENT ON COLUMN bsky.moderation_report."subjectDid" IS 'DID of the account that it is about.';
COMMENT ON COLUMN bsky.moderation_report."subjectUri" IS 'AT URI of the record that it is about; null: the account.';
COMMENT ON COLUMN bsky.moderation_report."subjectCid" IS 'CID of that record; null: the account.';
COMMENT ON COLUMN bsky.moderation_report."reasonType" IS 'Kind of reason, such as spam.';
COMMENT ON COLUMN bsky.moderation_report.reason IS 'What the reporter wrote; null: nothing.';
COMMENT ON COLUMN bsky.moderation_report."reportedByDid" IS 'DID of the reporter.';
COMMENT ON COLUMN bsky.moderation_report."createdAt" IS 'When it was reported, as ISO 8601 in UTC.';

COMMENT ON TABLE bsky.moderation_report_resolution IS
    'Moderation of earlier AppViews: kept for the reference''s migrator, written and read by nobody here.';
COMMENT ON COLUMN bsky.moderation_report_resolution."reportId" IS 'Number of the report: moderation_report.id.';
COMMENT ON COLUMN bsky.moderation_report_resolution."actionId" IS
    'Number of the action that settled it: moderation_action.id.';
COMMENT ON COLUMN bsky.moderation_report_resolution."createdBy" IS 'DID of the moderator.';
COMMENT ON COLUMN bsky.moderation_report_resolution."createdAt" IS 'When it was settled, as ISO 8601 in UTC.';

COMMENT ON TABLE bsky.moderation_subject_status IS
    'Moderation of earlier AppViews: kept for the reference''s migrator, written and read by nobody here.';
COMMENT ON COLUMN bsky.moderation_subject_status.id IS 'Number of the status.';
COMMENT ON COLUMN bsky.moderation_subject_status.did IS 'DID of the account that it is about.';
COMMENT ON COLUMN bsky.moderation_subject_status."recordPath" IS
    'Collection and record key of the record that it is about; empty: the account.';
COMMENT ON COLUMN bsky.moderation_subject_status."blobCids" IS
    'Array of the CIDs of the blobs that it is about; null: none.';
COMMENT ON COLUMN bsky.moderation_subject_status."recordCid" IS 'CID of the record; null: the account.';
COMMENT ON COLUMN bsky.moderation_subject_status."reviewState" IS 'Where the review stands, such as open or closed.';
COMMENT ON COLUMN bsky.moderation_subject_status.comment IS 'What a moderator noted; null: nothing.';
COMMENT ON COLUMN bsky.moderation_subject_status."muteUntil" IS
    'Until when reports of it are ignored, as ISO 8601 in UTC; null: they are not.';
COMMENT ON COLUMN bsky.moderation_subject_status."lastReviewedAt" IS
    'When it was last reviewed, as ISO 8601 in UTC; null: never.';
COMMENT ON COLUMN bsky.moderation_subject_status."lastReviewedBy" IS
    'DID of the moderator who reviewed it last; null: nobody.';
COMMENT ON COLUMN bsky.moderation_subject_status."lastReportedAt" IS
    'When it was last reported, as ISO 8601 in UTC; null: never.';
COMMENT ON COLUMN bsky.moderation_subject_status.takendown IS 'Whether it is taken down.';
COMMENT ON COLUMN bsky.moderation_subject_status."suspendUntil" IS
    'Until when it is suspended, as ISO 8601 in UTC; null: it is not.';
COMMENT ON COLUMN bsky.moderation_subject_status."createdAt" IS 'When the status was first stored, as ISO 8601 in UTC.';
COMMENT ON COLUMN bsky.moderation_subject_status."updatedAt" IS 'When the status was last changed, as ISO 8601 in UTC.';

COMMENT ON TABLE bsky.subscription IS
    'Cursors of earlier versions of the reference; ours are in pipeline.cursor. Not written by the pipeline.';
COMMENT ON COLUMN bsky.subscription.service IS 'URL of the service that was subscribed to.';
COMMENT ON COLUMN bsky.subscription.method IS 'NSID of the subscription.';
COMMENT ON COLUMN bsky.subscription.state IS 'Where the subscription stands, as JSON text.';

-- ---------------------------------------------------------------------------------------------------------------------
-- The reference's own migrator.

COMMENT ON TABLE bsky.kysely_migration IS
    'The reference''s migrations, recorded as done so that only newer ones would run.';
COMMENT ON COLUMN bsky.kysely_migration.name IS 'Name of the migration.';
COMMENT ON COLUMN bsky.kysely_migration.timestamp IS 'When it was recorded as done, as ISO 8601 in UTC.';

COMMENT ON TABLE bsky.kysely_migration_lock IS 'The lock that the reference''s migrator holds while it runs.';
COMMENT ON COLUMN bsky.kysely_migration_lock.id IS 'Name of the lock.';
COMMENT ON COLUMN bsky.kysely_migration_lock.is_locked IS '1 while a migration runs, else 0.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Tables of schema pipeline whose earlier comments used other words than docs/glossary.md.

COMMENT ON COLUMN pipeline.batch.stale IS 'Events skipped because a newer rev of the repository was already applied.';

COMMENT ON TABLE pipeline.repo IS
    'Sync state of every repository met. Every batch locks the rows of its repositories first, in order of DID.';
COMMENT ON COLUMN pipeline.repo.account_at IS
    'Time that the last account event applied states; older ones are skipped.';

COMMENT ON COLUMN pipeline.tombstone.record IS
    'Of a deleted gate, follow or list item: what evaluating posts as of an earlier rev needs of it; else null.';

COMMENT ON TABLE pipeline.pending IS
    'Records evaluated without something that is not indexed yet. Only their evaluation with it deletes the row.';
COMMENT ON COLUMN pipeline.pending.kind IS 'What is to be evaluated again (reply, quote, gate, ...).';
COMMENT ON COLUMN pipeline.pending.expires_at IS
    'After this the missing record is no longer fetched; it is still used if it arrives.';

COMMENT ON COLUMN pipeline.version.fact IS
    'Of a follow "<follower> <followed>", of a list item "<list> <member>": the relationship. Of a verification, like or repost the same after "verified", "like", "repost".';

COMMENT ON TABLE pipeline.dependency IS
    'Replies whose thread gate asks for a follow or a list membership: evaluated again when such an event arrives late.';
COMMENT ON COLUMN pipeline.dependency.fact IS 'The relationship, as version.fact.';

COMMENT ON TABLE pipeline.reply_to_other IS
    'Replies whose parent or root is not a post: evaluated again when an event of that record arrives late. They are rare.';

COMMENT ON TABLE pipeline.silenced IS
    'Notifications not written because their recipient had muted the thread; they may have unmuted it since.';
COMMENT ON COLUMN pipeline.silenced.did IS 'DID of the account that was not notified.';

COMMENT ON TABLE pipeline.told_otherwise IS
    'Likes, reposts and follows that were edited or promoted: their recipients do not follow from what they say now.';
