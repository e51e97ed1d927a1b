-- Comments on pipeline.version, which holds the history of verifications too. Nothing but comments.

COMMENT ON TABLE pipeline.version IS
    'Events of posts, gates, follows, list items, verifications and notification declarations that are not the current state of their record.';
COMMENT ON COLUMN pipeline.version.fact IS
    'Of a follow "<follower> <followed>", of a list item "<list> <member>", of a verification "verified <creator> <subject>".';
COMMENT ON COLUMN pipeline.version.record IS
    'Of a gate or declaration: the record. Of a verification: its cid, and as sortAt the time that its notification has.';
