-- When the first batch began to be applied; no row if there is none. Ten seconds before the time in its row, which is
-- written at the end of the batch.
--
-- Guarantees: reads only.
SELECT applied_at - interval '10 seconds'
FROM pipeline.batch
ORDER BY id
LIMIT 1
