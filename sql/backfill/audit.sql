-- Which repositories an audit looks at.
--
-- Guarantees: reads only; a limited number of rows, however many repositories there are.

-- :count
-- How many repositories are known, counted up to %(limit)s.
SELECT count(*) FROM (SELECT FROM pipeline.repo LIMIT %(limit)s) counted;

-- :any
-- %(wanted)s random repositories that should be complete, of all. For few repositories.
SELECT did
FROM pipeline.repo
WHERE sync_state = 'synchronized' AND NOT is_partial AND active AND NOT excluded
ORDER BY random()
LIMIT %(wanted)s;

-- :after
-- For each of %(points)s, which are random DIDs, the next repository that should be complete, among the next 200.
SELECT DISTINCT n.did
FROM unnest(%(points)s) p (point)
CROSS JOIN LATERAL (
  SELECT c.did
  FROM (
    SELECT r.did, r.sync_state = 'synchronized' AND NOT r.is_partial AND r.active AND NOT r.excluded AS is_wanted
    FROM pipeline.repo r
    WHERE r.did >= p.point
    ORDER BY r.did
    LIMIT 200
  ) c
  WHERE c.is_wanted
  ORDER BY c.did
  LIMIT 1
) n;
