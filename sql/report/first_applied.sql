-- When the first batch was applied; no row when there is none. Some seconds earlier than its row says, because the row
-- is written at the end of the batch.
SELECT applied_at - interval '10 seconds' FROM pipeline.batch ORDER BY id LIMIT 1
