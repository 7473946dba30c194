-- Photos without a query: the newest ones, some by id, and what there is to filter by.

-- Photos that may be shown, newest first.
--   asset_ids  only these; NULL for all
--   owners, filter  as in search()
CREATE OR REPLACE FUNCTION indexer_v1.photos(
    asset_ids   uuid[]  DEFAULT NULL,
    owners      uuid[]  DEFAULT NULL,
    max_results integer DEFAULT 50,
    skip        integer DEFAULT 0,
    filter      jsonb   DEFAULT NULL)
RETURNS TABLE (asset_id uuid)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT a.id FROM public.asset a WHERE %s %s ORDER BY a."fileCreatedAt" DESC, a.id LIMIT %s OFFSET %s',
        indexer_v1.search_scope(photos.owners, photos.filter),
        CASE WHEN photos.asset_ids IS NOT NULL THEN 'AND a.id = ANY ($1)' END,
        max_results, skip)
    USING photos.asset_ids;
END
$$;

-- What these owners' photos can be filtered by. Of Immich's tables those that are there: a folder of
-- photos has none of them.
--   viewer  whose albums, people and tags
-- {"albums": [{"id", "name"}], "people": …, "tags": …, "places": [{"country", "city"}],
--  "cameras": [{"make", "model"}], "videos": true, "favorites": true, "archived": true}
CREATE OR REPLACE FUNCTION indexer_v1.filter_choices(owners uuid[], viewer uuid) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    scope  text := indexer_v1.search_scope(owners);
    wanted record;
    found  jsonb;
    made   jsonb;
BEGIN
    EXECUTE format($q$
        SELECT jsonb_build_object(
            'videos', EXISTS (SELECT FROM public.asset a WHERE %1$s AND a.type = 'VIDEO'),
            'favorites', EXISTS (SELECT FROM public.asset a WHERE %1$s AND a."isFavorite"),
            'archived', EXISTS (SELECT FROM public.asset a WHERE %1$s AND a.visibility = 'archive'))
        $q$, scope) INTO made;
    FOR wanted IN
        SELECT * FROM (VALUES
            ('albums', 'album', $q$
                SELECT y.id, y."albumName" AS name FROM public.album y
                WHERE to_jsonb(y) ->> 'deletedAt' IS NULL
                  AND (to_jsonb(y) ->> 'ownerId' = $1::text
                       OR EXISTS (SELECT FROM public.album_user u
                                  WHERE u."albumId" = y.id AND u."userId" = $1))
                ORDER BY y."createdAt" DESC LIMIT 300 $q$),
            ('people', 'person', $q$
                SELECT y.id, y.name FROM public.person y
                WHERE y."ownerId" = $1 AND y.name <> '' AND NOT y."isHidden"
                ORDER BY y.name LIMIT 300 $q$),
            ('tags', 'tag', $q$
                SELECT y.id, y.value AS name FROM public.tag y
                WHERE y."userId" = $1 ORDER BY y.value LIMIT 300 $q$),
            ('places', 'asset_exif', $q$
                SELECT x.country, x.city FROM public.asset_exif x JOIN public.asset a ON a.id = x."assetId"
                WHERE x.city IS NOT NULL AND $q$ || scope || $q$
                GROUP BY 1, 2 ORDER BY count(*) DESC, 1, 2 LIMIT 300 $q$),
            ('cameras', 'asset_exif', $q$
                SELECT x.make, x.model FROM public.asset_exif x JOIN public.asset a ON a.id = x."assetId"
                WHERE x.model IS NOT NULL AND $q$ || scope || $q$
                GROUP BY 1, 2 ORDER BY count(*) DESC, 1, 2 LIMIT 300 $q$)
        ) AS v(name, table_name, statement)
    LOOP
        found := NULL;
        IF to_regclass('public.' || wanted.table_name) IS NOT NULL THEN
            EXECUTE format('SELECT jsonb_agg(to_jsonb(c)) FROM (%s) AS c', wanted.statement)
            INTO found USING viewer;
        END IF;
        made := made || jsonb_build_object(wanted.name, coalesce(found, '[]'));
    END LOOP;
    RETURN made;
END
$$;

-- What Immich knows of a photo, for people: {"camera", "lens", "place", "description"}, as far as
-- there is something.
CREATE OR REPLACE FUNCTION indexer_v1.photo_details(asset uuid) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    exif jsonb;
BEGIN
    IF to_regclass('public.asset_exif') IS NOT NULL THEN
        SELECT to_jsonb(x) INTO exif FROM public.asset_exif x WHERE x."assetId" = asset;
    END IF;
    RETURN coalesce((
        SELECT jsonb_object_agg(d.name, d.value)
        FROM (VALUES
            ('camera', concat_ws(' ', exif ->> 'make', exif ->> 'model')),
            ('lens', exif ->> 'lensModel'),
            ('place', concat_ws(', ', exif ->> 'city', exif ->> 'state', exif ->> 'country')),
            ('description', exif ->> 'description')
        ) AS d(name, value)
        WHERE d.value <> ''), '{}');
END
$$;
