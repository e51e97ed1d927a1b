-- What readers are told of an account that is not active: `bsky.actor."upstreamStatus"`, of which they know four values.

-- A status that is none of them, or missing, counts as `deactivated`: the account is hidden until it is active again.
create function pipeline.upstream_status(active boolean, status text) returns text
  language sql immutable parallel safe
  return case
    when active then null
    when status in ('deactivated', 'suspended', 'takendown', 'deleted') then status
    else 'deactivated'
  end;

update bsky.actor a
set "upstreamStatus" = pipeline.upstream_status(r.active, r.status)
from pipeline.repo r
where r.did = a.did
  and not r.active
  and a."upstreamStatus" is distinct from pipeline.upstream_status(r.active, r.status);
