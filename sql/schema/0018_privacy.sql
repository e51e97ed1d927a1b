-- Privacy: accounts that forbid the collection of their data.

CREATE INDEX actor_setting_forbidden_idx ON pipeline.actor_setting (did) WHERE data_collection_forbidden;
