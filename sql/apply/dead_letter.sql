-- pipeline.dead_letter: what upstream sent and we could not use, with its bytes and the reason in words.
--
-- Guarantees: delivered again, it is not written again. Of one kind no more than a limit is stored per minute; what
-- exceeds it is counted in dead_letter_overflow.

-- :insert
WITH recent AS (
  SELECT kind, count(*) AS stored
  FROM pipeline.dead_letter
  WHERE first_seen >= date_trunc('minute', now())
  GROUP BY kind
), ranked AS (
  SELECT s.*, row_number() OVER (PARTITION BY s.kind ORDER BY s.seq, s.path) + coalesce(r.stored, 0) AS rank
  FROM stage_dead_letter s
  LEFT JOIN recent r USING (kind)
  WHERE NOT EXISTS (SELECT FROM pipeline.dead_letter d WHERE d.fingerprint = s.fingerprint)
), stored AS (
  INSERT INTO pipeline.dead_letter
    (fingerprint, source, seq, did, path, kind, reason, bytes, byte_length, form, rev, cid, action, event_time)
  SELECT fingerprint, source, seq, did, path, kind, reason, bytes, byte_length, form, rev, cid, action, event_time
  FROM ranked
  WHERE rank <= %(per_minute)s
  ORDER BY fingerprint
  ON CONFLICT (fingerprint) DO NOTHING
)
INSERT INTO pipeline.dead_letter_overflow AS o (kind, minute, count)
SELECT kind, date_trunc('minute', now()), count(*)
FROM ranked
WHERE rank > %(per_minute)s
GROUP BY kind
ORDER BY kind
ON CONFLICT (kind, minute) DO UPDATE SET count = o.count + excluded.count;
