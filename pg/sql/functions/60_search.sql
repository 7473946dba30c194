-- The hybrid search: text in the picture and what the picture shows, in one ranking.
--
--   query        the query language of 30_query.sql; NULL or '' for vectors alone
--   embedding    the query's CLIP embedding (see parse_query().picture); NULL for text alone
--   owners       whose photos; NULL for everybody's
--   method       rrf: reciprocal rank fusion, 1/(60 + rank) per side (Cormack et al. 2009)
--                weighted: text_weight × text + (1 - text_weight) × vector, each side's scores
--                stretched to 0..1 over its candidates (Bruch et al., arXiv 2210.11934)
--   max_distance candidates whose cosine distance is above this are dropped
--
-- Each side brings its best `pool` candidates, filtered; a rank or a raw score is NULL where a side
-- doesn't have the photo. Trashed, locked and hidden photos are never returned.
--
-- The form matters. ORDER BY embedding <=> constant LIMIT in a CTE of its own is what the HNSW index
-- answers (no tie-breaker, no rank window around it); custom plans make the parameters constants;
-- ef_search is below the pool, iterative scans fill it up (pgvector 0.8). Guarded by EXPLAIN tests.
CREATE OR REPLACE FUNCTION indexer_v1.search(
    query        text,
    embedding    vector           DEFAULT NULL,
    owners       uuid[]           DEFAULT NULL,
    max_results  integer          DEFAULT 50,
    skip         integer          DEFAULT 0,
    method       text             DEFAULT 'rrf',
    text_weight  double precision DEFAULT 0.5,
    max_distance double precision DEFAULT NULL)
RETURNS TABLE (
    asset_id uuid, score double precision,
    text_rank bigint, text_score double precision,
    vector_rank bigint, vector_distance double precision)
LANGUAGE plpgsql STABLE
SET search_path FROM CURRENT
SET plan_cache_mode = force_custom_plan
SET hnsw.ef_search = 200
AS $$
#variable_conflict use_column
DECLARE
    pool     constant integer := least(greatest(200, skip + max_results), 5000);
    parsed   record;
    probe    halfvec;
BEGIN
    IF method NOT IN ('rrf', 'weighted') THEN
        RAISE EXCEPTION 'method is rrf or weighted, not %', method
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT * INTO parsed FROM indexer_v1.parse_query(search.query);
    -- A zero vector has no direction; a query with ocr: asks for text alone.
    probe := CASE WHEN vector_norm(search.embedding) > 0
                   AND (parsed.picture IS NOT NULL OR coalesce(search.query, '') = '')
             THEN search.embedding::halfvec END;
    RETURN QUERY
    WITH text_hits AS (
        SELECT o.asset_id, ts_rank_cd(o.tsv, parsed.wanted, 1)::double precision AS rank_score
        FROM indexer_v1.ocr o JOIN public.asset a ON a.id = o.asset_id
        WHERE numnode(parsed.wanted) > 0
          AND o.tsv @@ parsed.wanted
          AND (numnode(parsed.unwanted) = 0 OR NOT o.tsv @@ parsed.unwanted)
          AND a."deletedAt" IS NULL AND a.visibility IN ('timeline', 'archive')
          AND (owners IS NULL OR a."ownerId" = ANY (owners))
        -- ts_rank_cd reads every match: a word that is everywhere must not cost everything
        LIMIT 20000
    ), text_side AS (
        SELECT t.asset_id, t.rank_score,
               row_number() OVER (ORDER BY t.rank_score DESC, t.asset_id) AS place
        FROM text_hits t
        ORDER BY t.rank_score DESC, t.asset_id
        LIMIT pool
    ), nearest AS (
        SELECT c.asset_id, c.embedding <=> probe AS distance
        FROM indexer_v1.clip c JOIN public.asset a ON a.id = c.asset_id
        WHERE probe IS NOT NULL
          AND a."deletedAt" IS NULL AND a.visibility IN ('timeline', 'archive')
          AND (owners IS NULL OR a."ownerId" = ANY (owners))
          AND (numnode(parsed.unwanted) = 0 OR NOT EXISTS (
              SELECT FROM indexer_v1.ocr o
              WHERE o.asset_id = c.asset_id AND o.tsv @@ parsed.unwanted))
        ORDER BY c.embedding <=> probe
        LIMIT pool
    ), vector_side AS (
        SELECT n.asset_id, n.distance, row_number() OVER (ORDER BY n.distance, n.asset_id) AS place
        FROM nearest n
        WHERE max_distance IS NULL OR n.distance <= max_distance
    ), fused AS (
        SELECT coalesce(t.asset_id, v.asset_id) AS asset_id,
               t.place AS text_place, t.rank_score, v.place AS vector_place, v.distance,
               CASE method
                   WHEN 'rrf' THEN
                       coalesce(1.0 / (60 + t.place), 0) + coalesce(1.0 / (60 + v.place), 0)
                   ELSE
                       text_weight * coalesce(t.rank_score / nullif(max(t.rank_score) OVER (), 0), 0)
                       + (1 - text_weight) * coalesce(
                           (max(v.distance) OVER () - v.distance)
                           / nullif(max(v.distance) OVER () - min(v.distance) OVER (), 0),
                           CASE WHEN v.distance IS NULL THEN 0 ELSE 1 END)
               END AS total
        FROM text_side t FULL JOIN vector_side v ON v.asset_id = t.asset_id
    )
    SELECT f.asset_id, f.total::double precision, f.text_place, f.rank_score, f.vector_place,
           f.distance
    FROM fused f
    ORDER BY f.total DESC, f.asset_id
    LIMIT max_results OFFSET skip;
END
$$;

-- pgvector before 0.8 has no iterative scans: there a selective filter can leave fewer results.
DO $$
BEGIN
    IF (SELECT string_to_array(extversion, '.')::int[] >= '{0,8}' FROM pg_extension
        WHERE extname = 'vector') THEN
        ALTER FUNCTION indexer_v1.search SET hnsw.iterative_scan = strict_order;
    END IF;
END
$$;
