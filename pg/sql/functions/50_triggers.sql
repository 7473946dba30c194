-- Events in Immich's tables become jobs. A trigger function here must never fail the transaction
-- it runs in, nor hold it up: every error is swallowed with a warning, and no wait on our locks is
-- longer than a quarter of a second. What couldn't be queued is noted in `missed`, and queued as
-- soon as it can be; should even that fail, the periodic backfill finds photos without a result.
--
-- Columns are read through to_jsonb: UPDATE OF or WHEN (column) would block Immich's own ALTERs.

-- For the triggers' exception handlers: they must not fail either.
CREATE OR REPLACE FUNCTION indexer_v1.note_missed(assets uuid[], event text, error text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '250ms'
AS $$
BEGIN
    INSERT INTO indexer_v1.missed (asset_id) SELECT DISTINCT unnest(assets);
    IF FOUND THEN
        PERFORM pg_notify('indexer_v1', '');
        RAISE WARNING 'immich-indexer: % queued later: %', event, error;
    ELSE
        RAISE WARNING 'immich-indexer: % not queued: %', event, error;
    END IF;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'immich-indexer: % not queued: %', event, error;
END
$$;

-- Queue what was missed, as far as nobody holds it any more. In no order: one that is held for long
-- must not keep the others waiting. Returns how many photos.
CREATE OR REPLACE FUNCTION indexer_v1.take_missed() RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
AS $$
DECLARE
    late  uuid;
    taken bigint := 0;
BEGIN
    FOR late IN
        SELECT m.asset_id FROM (SELECT DISTINCT asset_id FROM indexer_v1.missed) AS m
        ORDER BY random() LIMIT 100
    LOOP
        BEGIN
            DELETE FROM indexer_v1.missed m WHERE m.asset_id = late;
            IF indexer_v1.preview_path(late) IS NOT NULL THEN
                PERFORM indexer_v1.enqueue(ARRAY[late]);
            END IF;
            taken := taken + 1;
        EXCEPTION WHEN lock_not_available OR foreign_key_violation THEN
            EXIT; -- held still, or deleted this moment
        END;
    END LOOP;
    RETURN taken;
END
$$;

CREATE OR REPLACE FUNCTION indexer_v1.on_asset_file() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '250ms'
AS $$
DECLARE
    changed uuid[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT array_agg(n."assetId") INTO changed FROM new_rows n WHERE n.type = 'preview';
    ELSIF TG_OP = 'UPDATE' THEN
        -- Immich upserts previews; only a row that really differs is an event.
        SELECT array_agg(n."assetId") INTO changed
        FROM new_rows n LEFT JOIN old_rows o ON o.id = n.id
        WHERE n.type = 'preview'
          AND (to_jsonb(n) - '{updatedAt,updateId}'::text[])
              IS DISTINCT FROM (to_jsonb(o) - '{updatedAt,updateId}'::text[]);
    ELSE
        -- An edit undone: the unedited preview counts again. Not where the asset itself goes.
        SELECT array_agg(o."assetId") INTO changed
        FROM old_rows o
        WHERE o.type = 'preview'
          AND EXISTS (SELECT FROM public.asset_file f
                      WHERE f."assetId" = o."assetId" AND f.type = 'preview')
          AND EXISTS (SELECT FROM public.asset a WHERE a.id = o."assetId");
    END IF;
    IF changed IS NOT NULL THEN
        PERFORM indexer_v1.enqueue(changed);
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    BEGIN
        PERFORM indexer_v1.note_missed(changed, TG_OP || ' ' || TG_TABLE_NAME, SQLERRM);
    EXCEPTION WHEN OTHERS THEN -- a role that has no rights in this schema
        RAISE WARNING 'immich-indexer: % % not queued: %', TG_OP, TG_TABLE_NAME, SQLERRM;
    END;
    RETURN NULL;
END
$$;

-- The thumbhash is the one thing in asset that changes with the picture when a preview is made
-- again under the same path.
CREATE OR REPLACE FUNCTION indexer_v1.on_asset() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '250ms'
AS $$
DECLARE
    changed uuid[];
BEGIN
    SELECT array_agg(n.id) INTO changed
    FROM new_rows n JOIN old_rows o ON o.id = n.id
    WHERE to_jsonb(n) -> 'thumbhash' IS DISTINCT FROM to_jsonb(o) -> 'thumbhash'
      AND EXISTS (SELECT FROM public.asset_file f WHERE f."assetId" = n.id AND f.type = 'preview');
    IF changed IS NOT NULL THEN
        PERFORM indexer_v1.enqueue(changed);
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    BEGIN
        PERFORM indexer_v1.note_missed(changed, TG_OP || ' ' || TG_TABLE_NAME, SQLERRM);
    EXCEPTION WHEN OTHERS THEN -- a role that has no rights in this schema
        RAISE WARNING 'immich-indexer: % % not queued: %', TG_OP, TG_TABLE_NAME, SQLERRM;
    END;
    RETURN NULL;
END
$$;

-- A row in reprocess makes urgent, forced jobs, or is answered at once with the reason why not.
CREATE OR REPLACE FUNCTION indexer_v1.on_reprocess() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.status := 'waiting';
    NEW.remaining := CASE NEW.task WHEN 'all' THEN ARRAY['ocr', 'clip'] ELSE ARRAY[NEW.task] END;
    NEW.finished_at := NULL;
    -- One that Immich deletes just now counts as deleted: who waited for it might end in a deadlock.
    IF NOT EXISTS (SELECT indexer_v1.keep_photos(ARRAY[NEW.asset_id])) THEN
        NEW.status := 'failed: there is no asset with this id';
    ELSIF indexer_v1.preview_path(NEW.asset_id) IS NULL THEN
        NEW.status := 'failed: the photo has no preview yet';
    END IF;
    IF NEW.status <> 'waiting' THEN
        NEW.remaining := '{}';
        NEW.finished_at := now();
    ELSE
        PERFORM indexer_v1.enqueue(ARRAY[NEW.asset_id], NEW.remaining, 100, true);
    END IF;
    RETURN NEW;
END
$$;

CREATE OR REPLACE TRIGGER immich_indexer BEFORE INSERT ON indexer_v1.reprocess
    FOR EACH ROW EXECUTE FUNCTION indexer_v1.on_reprocess();

-- Who puts tags on and who takes them off (settle_tags) mustn't overlook each other: Immich, when it
-- refreshes metadata, takes all off and puts them on again in a transaction that others don't see
-- into. One of so many locks for a photo; nobody waits for one.
CREATE OR REPLACE FUNCTION indexer_v1.tag_lock(asset uuid) RETURNS integer
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$ SELECT hashtext(asset::text) & 63 $$;

-- Tags that ask for a photo to be redone, from any Immich client.
CREATE OR REPLACE FUNCTION indexer_v1.on_tag_asset() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '250ms'
AS $$
DECLARE
    asking uuid[];
    held   integer[]; -- the locks that were free; without one, the photo's tags are just going
BEGIN
    SELECT array_agg(n."assetId") INTO asking
    FROM new_rows n JOIN public.tag t ON t.id = n."tagId"
    WHERE t.value IN ('reprocess', 'reprocess/ocr', 'reprocess/clip');
    IF asking IS NULL THEN
        RETURN NULL;
    END IF;
    held := ARRAY(
        SELECT l.key FROM (SELECT DISTINCT indexer_v1.tag_lock(a) AS key FROM unnest(asking) AS a) AS l
        WHERE pg_try_advisory_xact_lock_shared(46642448, l.key));
    INSERT INTO indexer_v1.reprocess (asset_id, task, tag_id)
    SELECT n."assetId", CASE t.value WHEN 'reprocess' THEN 'all' ELSE split_part(t.value, '/', 2) END,
           t.id
    FROM new_rows n JOIN public.tag t ON t.id = n."tagId"
    WHERE t.value IN ('reprocess', 'reprocess/ocr', 'reprocess/clip')
      -- Immich takes tags off and puts them on again when it refreshes metadata: no new request.
      AND NOT (indexer_v1.tag_lock(n."assetId") = ANY (held)
               AND EXISTS (SELECT FROM indexer_v1.reprocess r
                           WHERE r.asset_id = n."assetId" AND r.tag_id = t.id))
    ORDER BY 1; -- so that jobs are locked in the order that everybody has
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'immich-indexer: % % not queued: %', TG_OP, TG_TABLE_NAME, SQLERRM;
    RETURN NULL;
END
$$;

-- A search text that Immich itself has just broken (see 55_immich.sql) waits to be mended. One that
-- is changed may also have lost lines, which only a comparison with the lines shows.
CREATE OR REPLACE FUNCTION indexer_v1.on_ocr_search() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '250ms'
AS $$
BEGIN
    INSERT INTO indexer_v1.write_back (asset_id, what)
    SELECT n."assetId", 'search_text' FROM new_rows n
    WHERE indexer_v1.is_broken_search_text(n.text)
       OR TG_OP = 'UPDATE'
          AND NOT indexer_v1.same_tokens(n.text, indexer_v1.right_search_text(n."assetId"))
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM pg_notify('indexer_v1', '');
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'immich-indexer: % % not noted: %', TG_OP, TG_TABLE_NAME, SQLERRM;
    RETURN NULL;
END
$$;

-- The triggers on Immich's tables, as far as the tables exist. In folder mode some don't.
CREATE OR REPLACE FUNCTION indexer_v1.wanted_triggers()
RETURNS TABLE (table_name text, trigger_name text, function_name text, event text, refers text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.table_name, 'immich_indexer_' || lower(t.event), 'on_' || t.table_name, t.event, t.refers
    FROM (VALUES
        ('asset_file', 'INSERT', 'NEW TABLE AS new_rows'),
        ('asset_file', 'UPDATE', 'OLD TABLE AS old_rows NEW TABLE AS new_rows'),
        ('asset_file', 'DELETE', 'OLD TABLE AS old_rows'),
        ('asset', 'UPDATE', 'OLD TABLE AS old_rows NEW TABLE AS new_rows'),
        ('tag_asset', 'INSERT', 'NEW TABLE AS new_rows'),
        ('ocr_search', 'INSERT', 'NEW TABLE AS new_rows'),
        ('ocr_search', 'UPDATE', 'NEW TABLE AS new_rows')
    ) AS t(table_name, event, refers)
    WHERE to_regclass('public.' || t.table_name) IS NOT NULL
$$;

-- Those that are missing: never made, or dropped by a restore of Immich, or switched off.
CREATE OR REPLACE FUNCTION indexer_v1.missing_triggers()
RETURNS TABLE (table_name text, trigger_name text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT w.table_name, w.trigger_name
    FROM indexer_v1.wanted_triggers() w
    WHERE NOT EXISTS (
        SELECT FROM pg_trigger t
        WHERE t.tgrelid = to_regclass('public.' || w.table_name) AND t.tgname = w.trigger_name
          AND t.tgenabled <> 'D')
$$;

-- Make what is missing. Returns how many.
CREATE OR REPLACE FUNCTION indexer_v1.ensure_triggers() RETURNS integer
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wanted record;
    made   integer := 0;
BEGIN
    FOR wanted IN
        SELECT w.* FROM indexer_v1.wanted_triggers() w
        JOIN indexer_v1.missing_triggers() m USING (table_name, trigger_name)
    LOOP
        EXECUTE format('DROP TRIGGER IF EXISTS %I ON public.%I',
                       wanted.trigger_name, wanted.table_name);
        EXECUTE format(
            'CREATE TRIGGER %I AFTER %s ON public.%I REFERENCING %s FOR EACH STATEMENT '
            'EXECUTE FUNCTION indexer_v1.%I()',
            wanted.trigger_name, wanted.event, wanted.table_name, wanted.refers,
            wanted.function_name);
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;
