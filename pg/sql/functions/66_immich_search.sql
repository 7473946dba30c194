-- What Immich's own search box needs, answered by the gateway. Only where there is an Immich.

-- A page of the search, in an order that stays the same from page to page: search() ranks the
-- candidates that it takes on each side, and deeper candidates may move what was above them. So
-- the ranking of the first 200 is final; what 1000 candidates add comes after them, then what 5000
-- add. Nothing comes twice, and nothing that the last of them has is left out.
--
--   version  changes whenever Immich shows the asset otherwise; NULL: this Immich doesn't say
--   more     whether something comes after this page
CREATE OR REPLACE FUNCTION indexer_v1.search_page(
    query text, embedding vector, owners uuid[], filter jsonb, skip integer, size integer)
RETURNS TABLE (asset_id uuid, version text, more boolean)
LANGUAGE plpgsql STABLE
SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
    ranked uuid[] := '{}';
    found  uuid[];
    depth  integer;
BEGIN
    FOREACH depth IN ARRAY '{200,1000,5000}'::integer[] LOOP
        SELECT coalesce(array_agg(s.asset_id ORDER BY s.ordinality), '{}') INTO found
        FROM indexer_v1.search(
            search_page.query, search_page.embedding, search_page.owners, max_results => depth,
            filter => search_page.filter) WITH ORDINALITY AS s;
        ranked := ranked || ARRAY(
            SELECT f.id FROM unnest(found) WITH ORDINALITY AS f(id, place)
            WHERE f.id <> ALL (ranked) ORDER BY f.place);
        EXIT WHEN cardinality(found) < depth OR cardinality(ranked) > skip + size;
    END LOOP;
    RETURN QUERY
    SELECT p.id,
           -- asset_exif changes without asset
           CASE WHEN x IS NULL THEN to_jsonb(a) ->> 'updateId'
                ELSE (to_jsonb(a) ->> 'updateId') || (to_jsonb(x) ->> 'updateId') END,
           cardinality(ranked) > skip + size
    FROM unnest(ranked[skip + 1:skip + size]) WITH ORDINALITY AS p(id, place)
    JOIN public.asset a ON a.id = p.id
    LEFT JOIN public.asset_exif x ON x."assetId" = p.id
    ORDER BY p.place;
END
$$;

-- How much of what Immich's own search knows isn't in the index yet, 0 to 1; task is ocr or clip.
-- Of a large table, 500 of its pages stand for all: some ten thousand photos.
CREATE OR REPLACE FUNCTION indexer_v1.missing_share(task text) RETURNS double precision
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET jit = off
SET enable_hashjoin = off -- reads the whole other table
SET enable_mergejoin = off
AS $$
DECLARE
    share double precision;
    known regclass := CASE task WHEN 'clip' THEN 'public.smart_search' ELSE 'public.ocr_search' END;
    pages double precision := pg_relation_size(known) / current_setting('block_size')::integer;
    part  double precision := least(100, 50000 / greatest(pages, 1)); -- percent
BEGIN
    IF task = 'clip' THEN
        SELECT count(*) FILTER (WHERE c.asset_id IS NULL)::double precision / nullif(count(*), 0)
        INTO share
        FROM public.smart_search s TABLESAMPLE SYSTEM (part)
        LEFT JOIN indexer_v1.clip c ON c.asset_id = s."assetId";
    ELSE
        SELECT count(*) FILTER (WHERE o.asset_id IS NULL)::double precision / nullif(count(*), 0)
        INTO share
        FROM public.ocr_search s TABLESAMPLE SYSTEM (part)
        LEFT JOIN indexer_v1.ocr o ON o.asset_id = s."assetId"
        WHERE s.text <> '';
    END IF;
    RETURN coalesce(share, 0);
END
$$;
