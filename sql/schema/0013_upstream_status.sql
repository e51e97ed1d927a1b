-- The status that readers see of an inactive account, `bsky.actor."upstreamStatus"`: they know four values.

-- Any other status, or none, counts as `deactivated`: the account is hidden until it is active again.
CREATE FUNCTION pipeline.upstream_status(active boolean, status text) RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE
    WHEN active THEN NULL
    WHEN status IN ('deactivated', 'suspended', 'takendown', 'deleted') THEN status
    ELSE 'deactivated'
  END;

UPDATE bsky.actor a
SET "upstreamStatus" = pipeline.upstream_status(r.active, r.status)
FROM pipeline.repo r
WHERE r.did = a.did
  AND NOT r.active
  AND a."upstreamStatus" IS DISTINCT FROM pipeline.upstream_status(r.active, r.status);
