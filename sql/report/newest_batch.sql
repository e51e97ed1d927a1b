-- The id of the newest batch; 0 when there is none. A reporter that has never reported begins there.
--
-- Guarantees: reads only.
SELECT coalesce(max(id), 0) FROM pipeline.batch
