-- pipeline.dead_letter: what upstream sent and could not be indexed, with its bytes and the reason in words.
--
-- Guarantees: the same dead letter is stored once, however often it arrives. Of one kind at most a number is stored per
-- minute, and at most a number of bytes per day (UTC); dead letters beyond either limit are counted in
-- dead_letter_overflow.

-- :stage
-- What upstream sent and could not be indexed.
CREATE TEMPORARY TABLE IF NOT EXISTS stage_dead_letter (
  fingerprint bytea NOT NULL,
  source text NOT NULL,
  seq bigint,
  did text,
  path text,
  kind text NOT NULL,
  reason text NOT NULL,
  bytes bytea,
  byte_length int NOT NULL,
  form text NOT NULL,
  rev text,
  cid text,
  action text,
  event_time text,
  quiet boolean                          -- true: the record notifies nobody; else null
) ON COMMIT DELETE ROWS;

-- :insert
-- Stores dead letters up to the limits. Each counts for its bytes, and 500 more for its row and indexes (as in
-- dead_letter_day).
-- - recent: dead letters of this minute that are stored, by kind.
-- - ranked: dead letters that are not stored yet; `rank` is each one's place in its minute, `total` the day's bytes up
--   to it.
-- - stored: dead letters within both limits.
-- - counted: their number and bytes, added to the day's.
WITH recent AS (
  SELECT kind, count(*) AS stored
  FROM pipeline.dead_letter
  WHERE first_seen >= date_trunc('minute', now())
  GROUP BY kind
), ranked AS (
  SELECT s.*,
    row_number() OVER w + coalesce(r.stored, 0) AS rank,
    sum(octet_length(s.bytes) + 500) OVER w + coalesce(d.bytes, 0) AS total
  FROM stage_dead_letter s
  LEFT JOIN recent r USING (kind)
  LEFT JOIN LATERAL (
    SELECT t.bytes
    FROM pipeline.dead_letter_day t
    WHERE t.kind = s.kind AND t.day = (now() AT TIME ZONE 'UTC')::date
    OFFSET 0
  ) d ON true
  WHERE NOT EXISTS (SELECT FROM pipeline.dead_letter d WHERE d.fingerprint = s.fingerprint OFFSET 0)
  WINDOW w AS (PARTITION BY s.kind ORDER BY s.seq, s.path ROWS UNBOUNDED PRECEDING)
), stored AS (
  INSERT INTO pipeline.dead_letter
    (fingerprint, source, seq, did, path, kind, reason, bytes, byte_length, form, rev, cid, action, event_time,
     quiet)
  SELECT fingerprint, source, seq, did, path, kind, reason, bytes, byte_length, form, rev, cid, action, event_time,
    quiet
  FROM ranked
  WHERE rank <= %(per_minute)s AND total <= %(bytes_per_day)s
  ORDER BY fingerprint
  ON CONFLICT (fingerprint) DO NOTHING
  RETURNING kind, octet_length(bytes) + 500 AS size
), counted AS (
  INSERT INTO pipeline.dead_letter_day AS d (kind, day, letters, bytes)
  SELECT kind, (now() AT TIME ZONE 'UTC')::date, count(*), sum(size)
  FROM stored
  GROUP BY kind
  ORDER BY kind
  ON CONFLICT (kind, day) DO UPDATE SET letters = d.letters + excluded.letters, bytes = d.bytes + excluded.bytes
)
INSERT INTO pipeline.dead_letter_overflow AS o (kind, minute, count)
SELECT kind, date_trunc('minute', now()), count(*)
FROM ranked
WHERE rank > %(per_minute)s OR total > %(bytes_per_day)s
GROUP BY kind
ORDER BY kind
ON CONFLICT (kind, minute) DO UPDATE SET count = o.count + excluded.count;
