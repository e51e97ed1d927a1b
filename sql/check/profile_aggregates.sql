-- Counters of accounts against a recount, for at most %(limit)s accounts that posted, followed or were followed by a
-- record applied from %(since)s up to, not including, %(until)s. Returns how many were compared, how many differ, and
-- the first %(shown)s of these.
--
-- Guarantees: reads only. Counters move in the transaction of the rows they count and so equal a recount: any
-- difference is a bug.
--
-- - touched: the accounts.
-- - counted: their counters and the recount.
-- - compared: whether they differ.
WITH touched AS (
  SELECT DISTINCT did FROM (
    SELECT unnest(ARRAY[r.did, f."subjectDid"]) AS did
    FROM bsky.record r
    LEFT JOIN bsky.follow f ON f.uri = r.uri
    WHERE r."appliedAt" >= %(since)s AND r."appliedAt" < %(until)s
  ) applied
  WHERE did IS NOT NULL
  LIMIT %(limit)s
), counted AS (
  SELECT
    t.did,
    coalesce(a."followersCount", 0) AS followers,
    coalesce(a."followsCount", 0) AS follows,
    coalesce(a."postsCount", 0) AS posts,
    (SELECT count(*) FROM bsky.follow x WHERE x."subjectDid" = t.did) AS real_followers,
    (SELECT count(*) FROM bsky.follow x WHERE x.creator = t.did) AS real_follows,
    (SELECT count(*) FROM bsky.post x WHERE x.creator = t.did) AS real_posts
  FROM touched t
  LEFT JOIN bsky.profile_agg a USING (did)
), compared AS (
  SELECT did, (followers, follows, posts) <> (real_followers, real_follows, real_posts) AS differs FROM counted
)
SELECT
  count(*) AS compared,
  count(*) FILTER (WHERE differs) AS differing,
  (array_agg(did ORDER BY did) FILTER (WHERE differs))[1:%(shown)s] AS examples
FROM compared
