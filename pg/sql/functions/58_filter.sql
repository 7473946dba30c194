-- What a search may be limited to, as SQL conditions on public.asset AS a. The names and what they
-- mean are those of Immich's own search API:
--
--     takenAfter, takenBefore      timestamps, on "fileCreatedAt", inclusive
--     createdAfter, createdBefore, updatedAfter, updatedBefore
--                                  the same, on "createdAt" and "updatedAt": of the row in Immich
--     type                         IMAGE or VIDEO
--     isFavorite, isOffline        booleans
--     isMotion                     whether a live photo's video belongs to it
--     isNotInAlbum                 true: in no album; false: as if it weren't there
--     visibility                   timeline or archive (others are never found), or a list
--     albumIds, personIds, tagIds  lists of ids; in all of them; tagIds null: without any tag
--     libraryId                    of an external library
--     city, state, country, make, model, lensModel, rating
--                                  exactly this; null: photos that have none
--
-- Only what is asked for gets into the statement, so the planner can start from the index that
-- serves it, and folder mode, which has no albums, people or EXIF tables, needs none.
CREATE OR REPLACE FUNCTION indexer_v1.filter_conditions(filter jsonb) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known CONSTANT text[] := '{takenAfter,takenBefore,createdAfter,createdBefore,updatedAfter,'
        'updatedBefore,type,isFavorite,isOffline,isMotion,isNotInAlbum,visibility,albumIds,personIds,'
        'tagIds,libraryId,city,state,country,make,model,lensModel,rating}';
    entry  record;
    id     text;
    made   text[] := '{}';
    exif   text[] := '{}';
BEGIN
    IF filter IS NULL THEN
        RETURN '';
    END IF;
    IF jsonb_typeof(filter) <> 'object' THEN
        RAISE EXCEPTION 'filter is a JSON object, not %', jsonb_typeof(filter)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR entry IN SELECT key, value, filter ->> key AS text FROM jsonb_each(filter) ORDER BY key LOOP
        IF entry.key <> ALL (known) THEN
            RAISE EXCEPTION 'filter has no %', entry.key
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'It knows ' || array_to_string(known, ', ') || '.';
        END IF;
        CASE
            WHEN entry.key IN ('city', 'state', 'country', 'make', 'model', 'lensModel', 'rating') THEN
                exif := exif || CASE
                    WHEN entry.text IS NULL THEN format('x.%I IS NULL', entry.key)
                    WHEN entry.key = 'rating' THEN format('x.rating = %s', entry.text::integer)
                    ELSE format('x.%I = %L', entry.key, entry.text) END;
            WHEN entry.key = 'tagIds' AND entry.text IS NULL THEN
                made := made || format('NOT EXISTS (SELECT FROM %s y WHERE y."assetId" = a.id)',
                                       indexer_v1.filter_table('tag_asset', entry.key));
            WHEN entry.text IS NULL THEN
                NULL; -- as if it weren't there
            WHEN entry.key ~ '^(taken|created|updated)(After|Before)$' THEN
                made := made || format(
                    'a.%I %s %L',
                    CASE left(entry.key, 5) WHEN 'taken' THEN 'fileCreatedAt'
                         WHEN 'creat' THEN 'createdAt' ELSE 'updatedAt' END,
                    CASE WHEN entry.key LIKE '%After' THEN '>=' ELSE '<=' END,
                    entry.text::timestamptz);
            WHEN entry.key = 'type' THEN
                made := made || format('a.type = %L', entry.text);
            WHEN entry.key IN ('isFavorite', 'isOffline') THEN
                made := made || format('a.%I = %L', entry.key, entry.text::boolean);
            WHEN entry.key = 'isMotion' THEN
                made := made || format('(a."livePhotoVideoId" IS NOT NULL) = %L', entry.text::boolean);
            WHEN entry.key = 'libraryId' THEN
                made := made || format('a."libraryId" = %L', entry.text::uuid);
            WHEN entry.key = 'visibility' THEN
                made := made || format('a.visibility::text = ANY (%L)', (
                    SELECT array_agg(v) FROM jsonb_array_elements_text(
                        CASE jsonb_typeof(entry.value) WHEN 'array' THEN entry.value
                             ELSE jsonb_build_array(entry.value) END) AS v));
            WHEN entry.key = 'isNotInAlbum' THEN
                IF entry.text::boolean THEN
                    made := made || format('NOT EXISTS (SELECT FROM %s y WHERE y."assetId" = a.id)',
                                           indexer_v1.filter_table('album_asset', entry.key));
                END IF;
            ELSE
                IF jsonb_typeof(entry.value) <> 'array' THEN
                    RAISE EXCEPTION 'filter: % is a list of ids', entry.key
                        USING ERRCODE = 'invalid_parameter_value';
                END IF;
                FOR id IN SELECT jsonb_array_elements_text(entry.value) LOOP
                    made := made || CASE entry.key
                        WHEN 'albumIds' THEN format(
                            'EXISTS (SELECT FROM %s y WHERE y."assetId" = a.id AND y."albumId" = %L)',
                            indexer_v1.filter_table('album_asset', entry.key), id::uuid)
                        WHEN 'personIds' THEN format(
                            'EXISTS (SELECT FROM %s y WHERE y."assetId" = a.id AND y."personId" = %L'
                            ' AND y."deletedAt" IS NULL%s)',
                            indexer_v1.filter_table('asset_face', entry.key), id::uuid,
                            -- A face that an edit has cut away (2.5 and later).
                            (SELECT ' AND y."isVisible"' FROM pg_attribute
                             WHERE attrelid = to_regclass('public.asset_face')
                               AND attname = 'isVisible' AND NOT attisdropped))
                        ELSE format(
                            'EXISTS (SELECT FROM %s y JOIN %s z ON z.id_descendant = y."tagId"'
                            ' WHERE y."assetId" = a.id AND z.id_ancestor = %L)',
                            indexer_v1.filter_table('tag_asset', entry.key),
                            indexer_v1.filter_table('tag_closure', entry.key), id::uuid)
                        END;
                END LOOP;
        END CASE;
    END LOOP;
    IF cardinality(exif) > 0 THEN
        made := made || format('EXISTS (SELECT FROM %s x WHERE x."assetId" = a.id AND %s)',
                               indexer_v1.filter_table('asset_exif', 'the camera or the place'),
                               array_to_string(exif, ' AND '));
    END IF;
    RETURN coalesce(' AND ' || nullif(array_to_string(made, ' AND '), ''), '');
END
$$;

-- Immich's table, where there is one.
CREATE OR REPLACE FUNCTION indexer_v1.filter_table(name text, asked text) RETURNS regclass
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF to_regclass('public.' || name) IS NULL THEN
        RAISE EXCEPTION 'photos can''t be filtered by % here: this database has no table %', asked, name
            USING ERRCODE = 'feature_not_supported',
                  HINT = 'Albums, people, tags and EXIF data are Immich''s; a folder of photos has none.';
    END IF;
    RETURN to_regclass('public.' || name);
END
$$;

-- Which photos are shown at all, as a SQL condition on public.asset AS a: never trashed, locked or
-- hidden ones.
--   owners  whose; NULL for everybody's. The first one's archived photos too, of the others (who are
--           partners of the first) only what they show: Immich doesn't let partners at the rest
CREATE OR REPLACE FUNCTION indexer_v1.search_scope(owners uuid[], filter jsonb DEFAULT NULL)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'a."deletedAt" IS NULL AND a.visibility IN (''timeline'', ''archive'')'
           || CASE WHEN cardinality(owners) > 1 THEN
                  format(' AND (a.visibility = ''timeline'' OR a."ownerId" = %L)', owners[1])
                  ELSE '' END
           || CASE WHEN owners IS NULL THEN '' ELSE format(' AND a."ownerId" = ANY (%L)', owners) END
           || indexer_v1.filter_conditions(filter)
$$;
