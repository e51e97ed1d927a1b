-- Counters of posts against a recount, for at most %(limit)s subjects of records applied from %(since)s up to, not
-- including, %(until)s. Returns how many were compared, how many differ, and the first %(shown)s of these.
--
-- Guarantees: reads only. Counters move in the transaction of the rows they count and so equal a recount: any
-- difference is a bug.
--
-- - touched: the subjects.
-- - counted: their counters and the recount.
-- - compared: whether they differ.
WITH touched AS (
  SELECT DISTINCT subject AS uri FROM (
    SELECT coalesce(l.subject, p.subject, q.subject, t."replyParent") AS subject
    FROM bsky.record r
    LEFT JOIN bsky."like" l ON l.uri = r.uri
    LEFT JOIN bsky.repost p ON p.uri = r.uri
    LEFT JOIN bsky.quote q ON q.uri = r.uri
    LEFT JOIN bsky.post t ON t.uri = r.uri
    WHERE r."appliedAt" >= %(since)s AND r."appliedAt" < %(until)s
  ) applied
  WHERE subject IS NOT NULL
  LIMIT %(limit)s
), counted AS (
  SELECT
    t.uri,
    coalesce(a."likeCount", 0) AS likes,
    coalesce(a."repostCount", 0) AS reposts,
    coalesce(a."replyCount", 0) AS replies,
    coalesce(a."quoteCount", 0) AS quotes,
    (SELECT count(*) FROM bsky."like" x WHERE x.subject = t.uri) AS real_likes,
    (SELECT count(*) FROM bsky.repost x WHERE x.subject = t.uri) AS real_reposts,
    (SELECT count(*) FROM bsky.post x WHERE x."replyParent" = t.uri AND x."violatesThreadGate" IS NOT TRUE)
      AS real_replies,
    (SELECT count(*) FROM bsky.quote x WHERE x.subject = t.uri) AS real_quotes
  FROM touched t
  LEFT JOIN bsky.post_agg a USING (uri)
), compared AS (
  SELECT uri, (likes, reposts, replies, quotes) <> (real_likes, real_reposts, real_replies, real_quotes) AS differs
  FROM counted
)
SELECT
  count(*) AS compared,
  count(*) FILTER (WHERE differs) AS differing,
  (array_agg(uri ORDER BY uri) FILTER (WHERE differs))[1:%(shown)s] AS examples
FROM compared
