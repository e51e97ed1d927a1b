-- Signatures that are checked after their commits have come: what is to be checked, and with which key.
--
-- Guarantees: a row of pipeline.unchecked_commit goes only once the commit that it has was decided about. Commits whose
-- account has no known key are looked at less and less often, so they hold up nobody. What a bad commit has left in the
-- index is put right by an export alone.

-- :keys
-- The signing keys of %(dids)s, of those whose key is known.
SELECT did, signing_key FROM pipeline.identity WHERE did = ANY (%(dids)s) AND signing_key IS NOT NULL;

-- :due
-- Returns at most %(limit)s commits whose time has come, with the account's key (null: it is not known), and whether
-- an export of the repository that is as new was applied.
SELECT u.did, u.rev, u.seq, u.block, i.signing_key, coalesce(r.export_rev >= u.rev, false)
FROM (
  SELECT did, rev, seq, block
  FROM pipeline.unchecked_commit
  WHERE check_at <= now()
  ORDER BY check_at
  LIMIT %(limit)s
) u
LEFT JOIN LATERAL (SELECT i.signing_key FROM pipeline.identity i WHERE i.did = u.did OFFSET 0) i ON true
LEFT JOIN LATERAL (SELECT r.export_rev FROM pipeline.repo r WHERE r.did = u.did OFFSET 0) r ON true;

-- :done
-- Removes commits that were decided about; one that a newer one has replaced stays.
DELETE FROM pipeline.unchecked_commit u
USING unnest(%(dids)s::text[], %(revs)s::text[]) d (did, rev)
WHERE u.did = d.did AND u.rev = d.rev;

-- :break_chains
-- Notes of the repositories %(dids)s, locked, that their chains of commits prove nothing any more: a commit in each has
-- turned out to be somebody else's. Otherwise its gap would be closed as one that the commits applied have filled.
-- Excluded accounts have no gaps.
UPDATE pipeline.repo SET chain_from = NULL, chain_since = NULL
WHERE did = ANY (%(dids)s) AND chain_from IS NOT NULL AND NOT excluded;

-- :later
-- Puts off those of %(dids)s, by as long as they have waited: %(shortest)s to %(longest)s seconds.
UPDATE pipeline.unchecked_commit SET
  check_at = now() + least(greatest(now() - since, %(shortest)s * interval '1 s'), %(longest)s * interval '1 s')
WHERE did = ANY (%(dids)s);

-- :letters
-- Returns at most %(limit)s dead letters whose signature a fresh key can decide about, in order of rev, with that key
-- (null: the account has none) and whether an export that is as new was applied, which decides as well.
-- A resolution that an event has overtaken is not fresh: the account is in the queue still. Left alone are those of
-- which not all bytes were kept, and those of accounts that are excluded.
SELECT d.id, i.signing_key, coalesce(r.export_rev >= d.rev, false)
FROM pipeline.dead_letter d
LEFT JOIN LATERAL (
  SELECT i.signing_key, i.resolved_at, i.queue FROM pipeline.identity i WHERE i.did = d.did OFFSET 0
) i ON true
LEFT JOIN LATERAL (SELECT r.export_rev, r.excluded FROM pipeline.repo r WHERE r.did = d.did OFFSET 0) r ON true
WHERE d.kind = 'commit-signature' AND d.resolved_at IS NULL AND d.retried_at IS NULL
  AND d.form = 'frame' AND octet_length(d.bytes) = d.byte_length AND r.excluded IS NOT TRUE
  AND (
    (i.resolved_at > d.first_seen AND i.queue IS DISTINCT FROM 'event')
    OR r.export_rev >= d.rev
  )
ORDER BY d.did, d.rev
LIMIT %(limit)s;

-- :letters_of
-- The repositories of the letters %(ids)s.
SELECT DISTINCT did FROM pipeline.dead_letter WHERE id = ANY (%(ids)s) AND did IS NOT NULL;

-- :disown
-- The commits of those of the letters %(ids)s that are decided about and still dead are not their accounts'. What their
-- gaps say is missing does not exist: an export need not reach their revs, which may lie beyond all of the account's.
-- Each account keeps a gap without bounds, which any export fetched from now on closes. Their repositories are locked.
-- - disowned: the gaps, closed.
WITH disowned AS (
  UPDATE pipeline.gap g SET resolved_at = now()
  WHERE g.id = ANY (ARRAY(
    SELECT f.id
    FROM pipeline.dead_letter d
    CROSS JOIN LATERAL (
      SELECT f.id
      FROM pipeline.gap f
      WHERE f.did = d.did AND f.kind = 'commit' AND f.to_text = d.rev AND f.resolved_at IS NULL
      OFFSET 0
    ) f
    WHERE d.id = ANY (%(ids)s) AND d.kind = 'commit-signature' AND d.resolved_at IS NULL AND d.retried_at IS NOT NULL
  ))
  RETURNING g.did
), noted AS (
  INSERT INTO pipeline.gap AS g (kind, did)
  SELECT DISTINCT 'commit', did FROM disowned
  ON CONFLICT ON CONSTRAINT gap_once DO UPDATE SET resolved_at = NULL, detected_at = now()
)
UPDATE pipeline.repo SET resync_oldest = ''
WHERE did = ANY (ARRAY(SELECT did FROM disowned)) AND resync_at IS NOT NULL;
