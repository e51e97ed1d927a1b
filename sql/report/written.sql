-- Rows written per table by the batches applied from %(since)s up to, not including, %(until)s.
--
-- Guarantees: reads only.
SELECT w.key AS name, sum(w.value::bigint)::bigint AS n
FROM pipeline.batch b, jsonb_each_text(b.written) w
WHERE b.applied_at >= %(since)s AND b.applied_at < %(until)s
GROUP BY w.key
