-- What pipeline.version holds since verifications have a history too. Nothing but comments.

comment on table pipeline.version is
    'Events of posts, gates, follows, list items, verifications and notification declarations that are not the current state of their record.';
comment on column pipeline.version.fact is
    'Of a follow "<follower> <followed>", of a list item "<list> <member>", of a verification "verified <creator> <subject>".';
comment on column pipeline.version.record is
    'Of a gate or declaration: the record. Of a verification: its cid, and as sortAt the time that its notification has.';
