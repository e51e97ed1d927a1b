-- Notifications of reason `subscribed-post`: a new post notifies the accounts that subscribed to its author, as far as
-- the author's declaration allows: followers (by default), mutuals, or none.
--
-- Guarantees: only the first state of a post notifies subscribers, unless it is quiet, and no account that the post
-- notifies anyway (post_notification.sql). The declaration and the follows are those as of the post's rev; a follow
-- that arrives late notifies then.

-- :stage
-- Subscribers of a post's author, and the follows that decide whether each is notified.
CREATE TEMPORARY TABLE subscription (
  uri text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  cid text NOT NULL,
  creator text NOT NULL,
  sort_at text NOT NULL,
  is_new boolean NOT NULL,
  did text NOT NULL,
  follow text NOT NULL,
  follow_back text                       -- null: the subscriber's follow is enough
) ON COMMIT DELETE ROWS;

-- :find
-- Lists the subscribers of the authors, and the relationships that decide. A post that waits for a follow to arrive is
-- found by pipeline.dependency.
-- - subscribed: accounts that subscribed to a new post's author, or wait for a follow, and are not notified already.
-- - declaration: the state of the author's declaration as of the post's rev.
-- - allowed: which accounts these states allow to subscribe; followers by default.
-- - asked: subscribers with the follows that must have existed.
-- - waiting: the same, kept in pipeline.dependency.
-- - asked_for: the same, for `find_relationships` of evaluation.sql.
WITH subscribed AS MATERIALIZED (
  SELECT t.uri, t.rev, t.cid, t.creator, t.sort_at, t.is_new, s.creator AS did
  FROM notifying_post t
  CROSS JOIN LATERAL (
    SELECT a.creator, a.post, a.reply FROM bsky.activity_subscription a WHERE a."subjectDid" = t.creator OFFSET 0
  ) s
  WHERE CASE WHEN t.parent IS NULL THEN s.post ELSE s.reply END
    AND s.creator <> t.creator
    AND t.quiet IS NOT TRUE
    AND CASE
      WHEN t.is_first THEN true
      WHEN t.is_new THEN
        NOT EXISTS (SELECT FROM touched c WHERE c.uri = t.uri AND c.change = 'updated')
        AND NOT EXISTS (SELECT FROM notifying_post f WHERE f.uri = t.uri AND f.is_first)
      ELSE (
        SELECT true FROM pipeline.dependency d WHERE d.relationship = s.creator || ' ' || t.creator AND d.uri = t.uri)
    END
    -- An account is not notified twice of one post, unless by an edit, which came later.
    AND NOT EXISTS (SELECT FROM first_notified n WHERE t.is_first AND n.did = s.creator AND n.uri = t.uri)
    AND NOT EXISTS (
      SELECT FROM new_notification n WHERE NOT t.is_first AND n.did = s.creator AND n.record_uri = t.uri)
), declaration AS MATERIALIZED (
  SELECT s.creator, s.rev, d.rev AS declared, d.is_current
  FROM (SELECT DISTINCT creator, rev FROM subscribed) s
  CROSS JOIN LATERAL pipeline.state_as_of('at://' || s.creator || '/{nsid.notification_declaration}/self', s.rev) d
), allowed AS MATERIALIZED (
  SELECT d.creator, d.declared, r.record ->> 'allowSubscriptions' AS to_whom
  FROM (SELECT DISTINCT creator, declared, is_current FROM declaration) d
  CROSS JOIN LATERAL pipeline.record_at(
    'at://' || d.creator || '/{nsid.notification_declaration}/self', d.declared, d.is_current) r
), asked AS MATERIALIZED (
  SELECT s.*, s.did || ' ' || s.creator AS follow,
    CASE WHEN a.to_whom = 'mutuals' THEN s.creator || ' ' || s.did END AS follow_back
  FROM subscribed s
  LEFT JOIN declaration d ON d.creator = s.creator AND d.rev = s.rev
  LEFT JOIN allowed a ON a.creator = d.creator AND a.declared = d.declared
  WHERE coalesce(a.to_whom, 'followers') IN ('followers', 'mutuals')
), waiting AS (
  INSERT INTO pipeline.dependency (relationship, uri)
  SELECT f.relationship, a.uri
  FROM asked a
  CROSS JOIN LATERAL (VALUES (a.follow), (a.follow_back)) f (relationship)
  WHERE a.is_new AND f.relationship IS NOT NULL
  ORDER BY f.relationship, a.uri
  ON CONFLICT DO NOTHING
), asked_for AS (
  INSERT INTO relationship_asked (relationship, rev)
  SELECT DISTINCT f.relationship, a.rev
  FROM asked a
  CROSS JOIN LATERAL (VALUES (a.follow), (a.follow_back)) f (relationship)
  WHERE f.relationship IS NOT NULL
    AND NOT EXISTS (
      SELECT FROM relationship_asked k WHERE k.relationship = f.relationship AND k.rev = a.rev)
)
INSERT INTO subscription (uri, rev, cid, creator, sort_at, is_new, did, follow, follow_back)
SELECT uri, rev, cid, creator, sort_at, is_new, did, follow, follow_back FROM asked;

-- :notify
-- Notifies the subscribers whose follows existed. Runs after `find_relationships` of evaluation.sql, where there are
-- subscriptions.
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT s.did, s.uri, s.cid, s.creator, 'subscribed-post', NULL, s.sort_at
FROM subscription s
JOIN relationship_asked f ON f.relationship = s.follow AND f.rev = s.rev AND f.holds
LEFT JOIN relationship_asked b ON b.relationship = s.follow_back AND b.rev = s.rev
WHERE s.follow_back IS NULL OR b.holds;
