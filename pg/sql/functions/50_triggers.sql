-- Events in Immich's tables become jobs. A trigger function here must never fail the transaction
-- it runs in: every error is swallowed with a warning, and the periodic backfill finds what was
-- missed. No wait on our locks longer than two seconds.
--
-- Columns are read through to_jsonb: UPDATE OF or WHEN (column) would block Immich's own ALTERs.

CREATE OR REPLACE FUNCTION indexer_v1.on_asset_file() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '2s'
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
    RAISE WARNING 'immich-indexer: % % not queued: %', TG_OP, TG_TABLE_NAME, SQLERRM;
    RETURN NULL;
END
$$;

-- The thumbhash is the one thing in asset that changes with the picture when a preview is made
-- again under the same path.
CREATE OR REPLACE FUNCTION indexer_v1.on_asset() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '2s'
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
    RAISE WARNING 'immich-indexer: % % not queued: %', TG_OP, TG_TABLE_NAME, SQLERRM;
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
    IF NOT EXISTS (SELECT FROM public.asset a WHERE a.id = NEW.asset_id) THEN
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

-- Triggers on Immich's tables are made by this function, so that they can be made again after a
-- restore of Immich has dropped them. Returns how many were missing.
CREATE OR REPLACE FUNCTION indexer_v1.ensure_triggers() RETURNS integer
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wanted record;
    made   integer := 0;
BEGIN
    FOR wanted IN VALUES
        ('asset_file', 'on_asset_file', 'INSERT', 'REFERENCING NEW TABLE AS new_rows'),
        ('asset_file', 'on_asset_file', 'UPDATE',
         'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows'),
        ('asset_file', 'on_asset_file', 'DELETE', 'REFERENCING OLD TABLE AS old_rows'),
        ('asset', 'on_asset', 'UPDATE', 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows')
    LOOP
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_trigger t
            WHERE t.tgrelid = ('public.' || wanted.column1)::regclass
              AND t.tgname = 'immich_indexer_' || lower(wanted.column3));
        EXECUTE format(
            'CREATE TRIGGER %I AFTER %s ON public.%I %s FOR EACH STATEMENT '
            'EXECUTE FUNCTION indexer_v1.%I()',
            'immich_indexer_' || lower(wanted.column3), wanted.column3, wanted.column1,
            wanted.column4, wanted.column2);
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;
