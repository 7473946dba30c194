-- Results by the picture they were computed from: nothing is inferred twice, whoever asks first.

CREATE OR REPLACE FUNCTION indexer_v1.known_text(hash bytea, wanted_model text) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(
        (SELECT o.lines FROM indexer_v1.ocr o
         WHERE o.content_hash = hash AND o.model = wanted_model LIMIT 1),
        (SELECT i.lines FROM indexer_v1.inference i
         WHERE i.content_hash = hash AND i.model = wanted_model))
$$;

CREATE OR REPLACE FUNCTION indexer_v1.known_embedding(hash bytea, wanted_model text) RETURNS real[]
LANGUAGE sql STABLE
SET search_path FROM CURRENT
AS $$
    SELECT coalesce(
        (SELECT i.embedding FROM indexer_v1.inference i
         WHERE i.content_hash = hash AND i.model = wanted_model),
        (SELECT c.embedding::vector::real[] FROM indexer_v1.clip c
         WHERE c.content_hash = hash AND c.model = wanted_model LIMIT 1))
$$;

CREATE OR REPLACE FUNCTION indexer_v1.keep_result(
    hash bytea, made_by text, found_lines jsonb, found_embedding real[])
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO indexer_v1.inference (content_hash, model, lines, embedding)
    VALUES (hash, made_by, found_lines, found_embedding)
    ON CONFLICT (content_hash, model) DO UPDATE SET
        lines = excluded.lines, embedding = excluded.embedding, created_at = now()
$$;

CREATE OR REPLACE FUNCTION indexer_v1.purge_results(max_age interval DEFAULT '1 day') RETURNS bigint
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH purged AS (
        DELETE FROM indexer_v1.inference WHERE created_at < now() - max_age RETURNING 1
    )
    SELECT count(*) FROM purged
$$;
