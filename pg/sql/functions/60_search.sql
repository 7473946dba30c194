-- The hybrid search: text in the picture and what the picture shows, in one ranking.
--
--   query        the query language of 30_query.sql; NULL or '' for vectors alone
--   embedding    the query's CLIP embedding (see parse_query().picture); NULL for text alone
--   owners       whose photos; NULL for everybody's
--   method       rrf: reciprocal rank fusion, 1/(60 + rank) per side (Cormack et al. 2009)
--                weighted: each side's scores stretched to 0..1 over its candidates (Bruch et al.,
--                arXiv 2210.11934)
--   text_weight  of the text side, 0 to 1; the vector side has the rest
--   max_distance photos farther than this (cosine) aren't like the query at all; NULL: as set for
--                the model, see max_distance()
--   filter       see filter_conditions()
--
-- Each side brings its best candidates (200, or as many as skip + max_results, up to 5000),
-- filtered. A rank or a raw score is NULL where a side doesn't have the photo. Trashed, locked and
-- hidden photos are never returned.
--
-- text_score: 3 to 4 where the text has the query's words as they are; 2 to 3 what OCR made of
-- them, and parts of longer words; 1 to 2 letters that cut through words, where nothing else was
-- found. The rest is cover density: how close together and how much of the text they are.
-- A query like 红色的圆 出口 has words about the picture that no text has: of what the vector side
-- has found, photos with some of the words come before those with none; text_score is the share of
-- the words, below 1.
DROP FUNCTION IF EXISTS indexer_v1.search(
    text, vector, uuid[], integer, integer, text, double precision, double precision);

CREATE OR REPLACE FUNCTION indexer_v1.search(
    query        text,
    embedding    vector           DEFAULT NULL,
    owners       uuid[]           DEFAULT NULL,
    max_results  integer          DEFAULT 50,
    skip         integer          DEFAULT 0,
    method       text             DEFAULT 'rrf',
    text_weight  double precision DEFAULT 0.5,
    max_distance double precision DEFAULT NULL,
    filter       jsonb            DEFAULT NULL)
RETURNS TABLE (
    asset_id uuid, score double precision,
    text_rank bigint, text_score double precision,
    vector_rank bigint, vector_distance double precision)
LANGUAGE plpgsql STABLE
SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
    pool     constant integer := least(greatest(200, skip + max_results), 5000);
    asked    record;
    scope    text;
    texts    record;
    vectors  record;
BEGIN
    IF method IS NULL OR method NOT IN ('rrf', 'weighted') THEN
        RAISE EXCEPTION 'method is rrf or weighted, not %', method
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT * INTO asked FROM indexer_v1.parse_query(search.query);
    scope := indexer_v1.search_scope(search.owners, search.filter);
    SELECT * INTO vectors FROM indexer_v1.nearest_photos(
        -- A zero vector has no direction; a query with ocr: asks for text alone.
        CASE WHEN vector_norm(search.embedding) > 0
                  AND (asked.picture IS NOT NULL OR coalesce(search.query, '') = '')
             THEN search.embedding::halfvec END,
        asked.unwanted, scope, pool,
        coalesce(search.max_distance, indexer_v1.max_distance()));
    SELECT * INTO texts FROM indexer_v1.photos_with_text(
        asked.sure, asked.wanted, asked.loose, asked.parts, asked.unwanted, scope, pool,
        vectors.ids);
    RETURN QUERY
    WITH text_side AS (
        SELECT id, rank_score, row_number() OVER (ORDER BY rank_score DESC, id) AS place
        FROM unnest(texts.ids, texts.scores) AS t(id, rank_score)
    ), vector_side AS (
        SELECT id, distance, row_number() OVER (ORDER BY distance, id) AS place
        FROM unnest(vectors.ids, vectors.distances) AS v(id, distance)
    ), fused AS (
        SELECT coalesce(t.id, v.id) AS id, t.place AS text_place, t.rank_score,
               v.place AS vector_place, v.distance,
               CASE method
                   WHEN 'rrf' THEN 2 * (text_weight * coalesce(1.0 / (60 + t.place), 0)
                                        + (1 - text_weight) * coalesce(1.0 / (60 + v.place), 0))
                   ELSE
                       text_weight * coalesce(t.rank_score / nullif(max(t.rank_score) OVER (), 0), 0)
                       + (1 - text_weight) * coalesce(
                           (max(v.distance) OVER () - v.distance)
                           / nullif(max(v.distance) OVER () - min(v.distance) OVER (), 0),
                           CASE WHEN v.distance IS NULL THEN 0 ELSE 1 END)
               END AS total
        FROM text_side t FULL JOIN vector_side v ON v.id = t.id
    )
    SELECT f.id, f.total::double precision, f.text_place, f.rank_score, f.vector_place, f.distance
    FROM fused f
    ORDER BY f.total DESC, f.text_place NULLS LAST, f.id
    LIMIT max_results OFFSET skip;
END
$$;

-- Above which cosine distance a photo isn't like the query at all. Recorded in indexer_v1.setting
-- as max_distance by whoever knows better; else what is known of the model: Chinese-CLIP's authors
-- give a similarity of 0.3 as the threshold, and 0.3 to 0.6 as what matching pairs have (issues 42,
-- 89 and 156 of OFA-Sys/Chinese-CLIP); the stand-in has at most 0.07 for what it is asked for on
-- the samples, 0.38 for the same shape in another colour, 0.75 and more for nearly all else.
CREATE OR REPLACE FUNCTION indexer_v1.max_distance() RETURNS double precision
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(
        (SELECT s.value::double precision FROM indexer_v1.setting s WHERE s.name = 'max_distance'),
        (SELECT CASE WHEN s.value LIKE 'stand-in%' THEN 0.3 END
         FROM indexer_v1.setting s WHERE s.name = 'clip_model'),
        0.7)
$$;

-- The text side. Words as they are (sure); if that isn't a page full, also what OCR made of them
-- (wanted); if still nothing, also letters that cut through words (loose). Then, of the photos
-- that the vector side has, those with some of the words (parts).
--
-- Ranking reads every match (some 7 µs each), and a word that is everywhere must not cost
-- everything: the first 2000 in the table's order, which only a change of the table changes, are
-- ranked, or as many as the page needs.
CREATE OR REPLACE FUNCTION indexer_v1.photos_with_text(
    sure tsquery, wanted tsquery, loose tsquery, parts tsquery[], unwanted tsquery, scope text,
    pool integer, seen uuid[], OUT ids uuid[], OUT scores double precision[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET max_parallel_workers_per_gather = 0
SET synchronize_seqscans = off
SET random_page_cost = 1.1 -- photos are looked up by id: never read all of them to join some
AS $$
DECLARE
    level    integer := 3;
    searched tsquery := ''::tsquery;
    asked    tsquery;
    more     record;
BEGIN
    ids := '{}';
    scores := '{}';
    FOREACH asked IN ARRAY ARRAY[sure, wanted, loose] LOOP
        IF numnode(asked) > 0 AND asked <> searched AND cardinality(ids) < pool
           AND (level > 1 OR cardinality(ids) = 0) THEN
            EXECUTE format($q$
                SELECT array_agg(t.asset_id) AS ids, array_agg(%s + t.rank_score) AS scores
                FROM (
                    SELECT h.asset_id, h.rank_score
                    FROM (
                        -- 1 | 32: by the logarithm of the text's length, then to 0..1
                        SELECT o.asset_id,
                               ts_rank_cd('{0.4,0.7,0.8,1}', o.tsv, $1, 33)::double precision AS rank_score
                        FROM indexer_v1.ocr o JOIN public.asset a ON a.id = o.asset_id
                        WHERE o.tsv @@ $1 AND %s %s %s
                        LIMIT %s
                    ) AS h
                    ORDER BY h.rank_score DESC, h.asset_id
                    LIMIT %s
                ) AS t
                $q$, level, scope,
                CASE WHEN numnode(unwanted) > 0 THEN 'AND NOT o.tsv @@ $2' END,
                CASE WHEN numnode(searched) > 0 THEN 'AND NOT o.tsv @@ $3' END,
                greatest(2000, pool), pool - cardinality(ids))
            INTO more USING asked, unwanted, searched;
            ids := ids || more.ids;
            scores := scores || more.scores;
            searched := asked;
        END IF;
        level := level - 1;
    END LOOP;
    IF cardinality(parts) > 1 AND cardinality(seen) > 0 THEN
        SELECT array_agg(p.asset_id) AS ids, array_agg(p.share) AS scores INTO more
        FROM (
            SELECT o.asset_id, count(*)::double precision / cardinality(parts) AS share
            FROM indexer_v1.ocr o JOIN unnest(parts) AS part ON o.tsv @@ part
            WHERE o.asset_id = ANY (seen) AND o.asset_id <> ALL (photos_with_text.ids)
            GROUP BY o.asset_id
        ) AS p;
        ids := ids || more.ids;
        scores := scores || more.scores;
    END IF;
END
$$;

-- The vector side: the nearest photos in scope, none of them farther than `farthest`.
--
-- The form matters. ORDER BY embedding <=> constant LIMIT, with the filters beside it, is what the
-- HNSW index answers; ef_search is below the pool, iterative scans fill it up (pgvector 0.8).
-- Under a selective filter such a scan would visit most of the index, and gives up on the way:
-- then the photos in scope are compared one by one, which is exact, and faster.
CREATE OR REPLACE FUNCTION indexer_v1.nearest_photos(
    probe halfvec, unwanted tsquery, scope text, pool integer, farthest double precision,
    OUT ids uuid[], OUT distances double precision[])
LANGUAGE plpgsql STABLE
SET search_path FROM CURRENT
SET max_parallel_workers_per_gather = 0
SET hnsw.ef_search = 200
SET random_page_cost = 1.1
AS $$
DECLARE
    wanted   text;
    in_scope double precision;
    photos   double precision;
    exact    boolean := false;
BEGIN
    ids := '{}';
    distances := '{}';
    IF probe IS NULL THEN
        RETURN;
    END IF;
    wanted := format(
        'SELECT c.asset_id, (c.embedding <=> $1) AS distance '
        'FROM indexer_v1.clip c JOIN public.asset a ON a.id = c.asset_id WHERE %s %s',
        scope,
        CASE WHEN numnode(unwanted) > 0 THEN
            'AND NOT EXISTS (SELECT FROM indexer_v1.ocr o WHERE o.asset_id = c.asset_id AND o.tsv @@ $2)'
        END);
    in_scope := indexer_v1.estimated_rows('SELECT FROM public.asset a WHERE ' || scope);
    SELECT greatest(c.reltuples, 0) INTO photos
    FROM pg_class c WHERE c.oid = 'indexer_v1.clip'::regclass;
    -- By index: pool × photos / in_scope entries visited; one by one: in_scope photos, each of
    -- which costs about a third as much.
    exact := in_scope * in_scope < 3 * pool * photos;
    LOOP
        EXECUTE format(
            'SELECT coalesce(array_agg(n.asset_id), ''{}''), coalesce(array_agg(n.distance), ''{}'') '
            'FROM (%s ORDER BY %s LIMIT %s) AS n',
            CASE WHEN exact THEN format('SELECT * FROM (%s OFFSET 0) AS every', wanted) ELSE wanted END,
            CASE WHEN exact THEN 'distance, asset_id' ELSE 'c.embedding <=> $1' END,
            pool)
        INTO ids, distances USING probe, unwanted;
        EXIT WHEN exact OR cardinality(ids) >= pool;
        exact := true;
    END LOOP;
    SELECT coalesce(array_agg(n.id ORDER BY n.distance, n.id), '{}'),
           coalesce(array_agg(n.distance ORDER BY n.distance, n.id), '{}')
    INTO ids, distances
    FROM unnest(ids, distances) AS n(id, distance)
    WHERE n.distance <= farthest;
END
$$;

-- What the planner expects. Volatile, because EXPLAIN isn't allowed in other functions.
CREATE OR REPLACE FUNCTION indexer_v1.estimated_rows(statement text) RETURNS double precision
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT JSON) ' || statement INTO plan;
    RETURN (plan -> 0 -> 'Plan' ->> 'Plan Rows')::double precision;
END
$$;

-- pgvector before 0.8 has no iterative scans: there a filter leads to the exact way more often.
DO $$
BEGIN
    IF (SELECT string_to_array(extversion, '.')::int[] >= '{0,8}' FROM pg_extension
        WHERE extname = 'vector') THEN
        ALTER FUNCTION indexer_v1.nearest_photos SET hnsw.iterative_scan = strict_order;
    END IF;
END
$$;
