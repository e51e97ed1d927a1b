-- What else follows from the history (0003_history.sql), asked for by statements of sql/apply/.

-- Whether a gate named a post once. Only a state of it proves that; a deletion may be that of a gate that was refused.
create function pipeline.had_gate(post_uri text, gate_uri text)
returns boolean
language sql stable
begin atomic
    select false
    from pipeline.version v
    where v.uri = gate_uri and not v.deleted and v.record ->> 'post' = post_uri
    limit 1;
end;
comment on function pipeline.had_gate is 'False if a gate that is gone named the post, else null: as post."hasThreadGate".';
