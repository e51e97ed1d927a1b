-- The id of the newest batch; 0 when there is none. A reporter that has never reported starts there.
SELECT coalesce(max(id), 0) FROM pipeline.batch
