-- The hybrid search: text in the picture and what the picture shows, in one ranking.
--
--   query        the query language of 30_query.sql; NULL or '' for vectors alone
--   embedding    the query's CLIP embedding (see parse_query().picture); NULL for text alone
--   owners       whose photos; NULL for everybody's. Of all but the first, not the archived ones
--   method       rrf: reciprocal rank fusion, 1/(60 + rank) per side (Cormack et al. 2009)
--                weighted: each side's scores stretched to 0..1 over its candidates (Bruch et al.,
--                arXiv 2210.11934)
--   text_weight  of the text side, 0 to 1; the vector side has the rest
--   max_distance photos farther than this (cosine) aren't like the query at all; NULL: as set for
--                the model, see max_distance()
--   filter       see filter_conditions()
--
-- Each side brings its best candidates (150, or as many as skip + max_results, up to 5000),
-- filtered; the text side less where the rest of 150 would have to be looked for, but a hundred and
-- what is asked for always. A rank or a raw score is NULL where a side doesn't have the photo.
-- Trashed, locked and hidden photos are never returned.
--
-- text_score: 3 to 4 where the text has the query's words as they are; 2 to 3 what OCR made of
-- them, and parts of longer words; 1 to 2 letters that cut through words, where nothing else was
-- found, of words that our list lacks. The rest is cover density: how close together and how much
-- of the text they are.
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
    pool     constant integer := least(greatest(150, skip + max_results), 5000);
    asked    record;
    scope    text;
    photos   double precision;
    in_scope double precision;
    texts    record;
    vectors  record;
BEGIN
    IF method IS NULL OR method NOT IN ('rrf', 'weighted') THEN
        RAISE EXCEPTION 'method is rrf or weighted, not %', method
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT * INTO asked FROM indexer_v1.parse_query(search.query);
    scope := indexer_v1.search_scope(search.owners, search.filter);
    in_scope := indexer_v1.estimated_rows('SELECT FROM public.asset a WHERE ' || scope);
    SELECT greatest(c.reltuples, in_scope, 1) INTO photos
    FROM pg_class c WHERE c.oid = 'public.asset'::regclass;
    SELECT * INTO vectors FROM indexer_v1.nearest_photos(
        -- A zero vector has no direction; a query with ocr: asks for text alone.
        CASE WHEN vector_norm(search.embedding) > 0
                  AND (asked.picture IS NOT NULL OR coalesce(search.query, '') = '')
             THEN search.embedding::halfvec END,
        asked.unwanted, scope, in_scope, pool,
        coalesce(search.max_distance, indexer_v1.max_distance()));
    SELECT * INTO texts FROM indexer_v1.photos_with_text(
        asked.sure, asked.wanted, asked.widened, asked.loose, asked.parts, asked.unwanted, scope,
        in_scope / photos, pool, greatest(100, skip + max_results), vectors.ids);
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
-- Users of Chinese-CLIP also report similarities of 0.4 and more for short texts that have nothing
-- to do with the picture (issue 255 there), so 0.7 keeps out little of what is asked in a word or
-- two; nobody has measured it here on real weights.
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

-- The text side. Words as they are (sure); if those aren't `enough`, also what OCR made of them
-- (wanted; what isn't found yet has one of widened); if still nothing, also letters that cut
-- through words (loose). Then, of the photos that the vector side has, those with some of the
-- words (parts). share: of all photos, how many are in scope.
--
-- Ranking costs some 3 µs a match, and a word that is everywhere must not cost everything. Where
-- more than 400 matches in scope are to be expected, first those are ranked that have the words
-- more than once or in a short text (see with_impacts()), from the highest impact down until there
-- are enough: cover density grows with the impact, so what is left out would rank below. Where
-- words have no impact in any text, one is as good as another: the first 2000 in the table's order
-- are ranked.
CREATE OR REPLACE FUNCTION indexer_v1.photos_with_text(
    sure tsquery, wanted tsquery, widened tsquery, loose tsquery, parts tsquery[],
    unwanted tsquery, scope text, share double precision, pool integer,
    enough integer, seen uuid[],
    OUT ids uuid[], OUT scores double precision[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET max_parallel_workers_per_gather = 0
SET synchronize_seqscans = off
-- Photos are looked up by id, texts by their words: never read all of them for some. Words that no
-- text has are thought to be in some hundred each, so a dozen look-alikes would seem to be worth it.
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    level    integer := 3;
    searched tsquery := ''::tsquery;
    asked    tsquery;
    by_index tsquery;
    impact   integer;
    more     record;
BEGIN
    ids := '{}';
    scores := '{}';
    FOREACH asked IN ARRAY ARRAY[sure, wanted, loose] LOOP
        IF numnode(asked) > 0 AND asked <> searched AND cardinality(ids) < enough
           AND (level > 1 OR cardinality(ids) = 0) THEN
            by_index := CASE level WHEN 2 THEN widened ELSE asked END;
            -- The steps are some 22, 9, 3, 0.5 and 0.05 % of a word's texts, more where it is a word
            -- that some texts are full of. One that brings too few costs a millisecond, one that
            -- brings a thousand costs ten.
            impact := width_bucket(
                share * indexer_v1.estimated_rows(format(
                    'SELECT FROM indexer_v1.ocr o WHERE o.tsv @@ %L', by_index)),
                '{400,1200,3000,6000,12000}');
            WHILE impact >= 0 AND cardinality(ids) < enough LOOP
                EXECUTE format($q$
                    SELECT array_agg(t.asset_id) AS ids, array_agg(%s + t.rank_score) AS scores
                    FROM (
                        SELECT h.asset_id, h.rank_score
                        FROM (
                            -- 1 | 32: by the logarithm of the text's length, then to 0..1
                            SELECT c.asset_id, ts_rank_cd('{0.4,0.7,0.8,1}', c.tsv, $1, 33)
                                                   ::double precision AS rank_score
                            FROM (
                                SELECT o.asset_id, o.tsv
                                FROM indexer_v1.ocr o JOIN public.asset a ON a.id = o.asset_id
                                WHERE o.tsv @@ $4 AND %s
                                OFFSET 0 -- tsvectors are read of those in scope only
                            ) AS c
                            WHERE c.tsv @@ $1 AND c.asset_id <> ALL ($3) %s
                            LIMIT %s
                        ) AS h
                        ORDER BY h.rank_score DESC, h.asset_id
                        LIMIT %s
                    ) AS t
                    $q$, level, scope,
                    CASE WHEN numnode(unwanted) > 0 THEN 'AND NOT c.tsv @@ $2' END,
                    greatest(2000, pool), pool - cardinality(ids))
                INTO more USING asked, unwanted, ids, indexer_v1.candidates(by_index, impact);
                ids := ids || more.ids;
                scores := scores || more.scores;
                impact := impact - 1;
            END LOOP;
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

-- What the GIN index can say of a tsquery without reading the rows: the same without weights and
-- distances, so it also finds some that don't match. impact: only texts where every word has this
-- one or more, see with_impacts().
CREATE OR REPLACE FUNCTION indexer_v1.candidates(asked tsquery, impact integer) RETURNS tsquery
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    -- No lexeme has a quotation mark or a < in it: those are signs, not letters.
    SELECT regexp_replace(
        regexp_replace(regexp_replace(regexp_replace(asked::text,
            ''':[A-D]+', '''', 'g'), ''':\*[A-D]+', ''':*', 'g'), ' <(?:-|[0-9]+)> ', ' & ', 'g'),
        '''([^'']+)''(:\*)?',
        (SELECT '(' || string_agg('''' || repeat('+', step) || '\1''\2', '|') || ')'
         FROM generate_series(impact, CASE impact WHEN 0 THEN 0 ELSE 5 END) AS step),
        'g')::tsquery
$$;

DROP FUNCTION IF EXISTS indexer_v1.nearest_photos(
    halfvec, tsquery, text, integer, double precision);

-- The vector side: the nearest photos in scope, none of them farther than `farthest`.
--
-- The form matters. ORDER BY embedding <=> constant LIMIT, with the filters beside it, is what the
-- HNSW index answers; iterative scans fill the pool (pgvector 0.8), in relaxed order, which finds
-- more. Where they are needed, half as many again are fetched: the last ones come out of order.
-- Under a selective filter such a scan would visit most of the index, and gives up on the way:
-- then the photos in scope are compared one by one, which is exact, and faster.
CREATE OR REPLACE FUNCTION indexer_v1.nearest_photos(
    probe halfvec, unwanted tsquery, scope text, in_scope double precision, pool integer,
    farthest double precision, OUT ids uuid[], OUT distances double precision[])
LANGUAGE plpgsql STABLE
SET search_path FROM CURRENT
SET max_parallel_workers_per_gather = 0
SET hnsw.ef_search = 150
SET random_page_cost = 1.1
AS $$
DECLARE
    wanted   text;
    photos   double precision;
    fetched  integer;
    visited  double precision;
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
    SELECT greatest(c.reltuples, 0) INTO photos
    FROM pg_class c WHERE c.oid = 'indexer_v1.clip'::regclass;
    -- By index: 1.5 × pool × photos / in_scope entries, 35 µs each; one by one: in_scope photos, 3 µs
    -- each. One by one misses none, which is worth twice the time: on its way to so many entries
    -- the index misses 5 % and more. So it does where a page is more than 1 % of all photos.
    exact := in_scope * in_scope < 40 * pool * photos OR pool > greatest(150, photos / 100);
    fetched := pool * CASE WHEN pool > 150 OR in_scope < 0.9 * photos THEN 1.5 ELSE 1 END;
    -- Some more entries are looked at in one go where that fills the pool: trashed photos among the
    -- first 150 would make a second go of an iterative scan, which costs as much again. Where it
    -- takes many goes anyway, larger ones cost more than they bring.
    visited := 1.1 * fetched * photos / greatest(in_scope, 1);
    IF visited BETWEEN current_setting('hnsw.ef_search')::integer AND 400 THEN
        PERFORM set_config('hnsw.ef_search', visited::integer::text, true);
    END IF;
    LOOP
        EXECUTE format(
            'SELECT coalesce(array_agg(n.asset_id), ''{}''), coalesce(array_agg(n.distance), ''{}'') '
            'FROM (%s ORDER BY %s LIMIT %s) AS n',
            CASE WHEN exact THEN format('SELECT * FROM (%s OFFSET 0) AS every', wanted) ELSE wanted END,
            CASE WHEN exact THEN 'distance, asset_id' ELSE 'c.embedding <=> $1' END,
            CASE WHEN exact THEN pool ELSE fetched END)
        INTO ids, distances USING probe, unwanted;
        -- A scan that ends by itself has come to where the graph leads no further, out of a cluster
        -- of alike photos, say: there may be nearer ones elsewhere.
        EXIT WHEN exact OR cardinality(ids) >= CASE WHEN in_scope > 100000 THEN pool ELSE fetched END;
        exact := true;
    END LOOP;
    SELECT coalesce(array_agg(n.id ORDER BY n.distance, n.id), '{}'),
           coalesce(array_agg(n.distance ORDER BY n.distance, n.id), '{}')
    INTO ids, distances
    FROM (
        SELECT * FROM unnest(ids, distances) AS n(id, distance)
        WHERE n.distance <= farthest
        ORDER BY n.distance, n.id LIMIT pool
    ) AS n;
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

-- pgvector before 0.8 has no iterative scans: ef_search is all that comes, filters included. So more
-- is visited, and a filter leads to the exact way more often.
DO $$
BEGIN
    IF (SELECT string_to_array(extversion, '.')::int[] >= '{0,8}' FROM pg_extension
        WHERE extname = 'vector') THEN
        ALTER FUNCTION indexer_v1.nearest_photos SET hnsw.iterative_scan = relaxed_order;
    ELSE
        ALTER FUNCTION indexer_v1.nearest_photos SET hnsw.ef_search = 500;
    END IF;
END
$$;
