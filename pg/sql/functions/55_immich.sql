-- Writing into Immich's own tables: redone results, and two stock defects mended. Never inside a
-- worker's transaction for results: what is to be written waits in write_back.
--
-- Functions that write there have public in their search_path (FROM CURRENT, see pg/migrate.py):
-- Immich's own triggers and defaults call their functions by bare names.
--
-- Sources: Immich's server, OcrRepository.upsert and tokenizeForSearch; SmartSearch's upsert; and
-- what was seen on a running 3.1 server.

-- ocr_search.text as Immich makes it: runs of CJK as pairs, a lone character by itself, anything
-- else on white space.
CREATE OR REPLACE FUNCTION indexer_v1.immich_search_text(texts text[]) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(string_agg(token, ' ' ORDER BY line, run, pair), '')
    FROM unnest(texts) WITH ORDINALITY AS t(body, line)
    CROSS JOIN LATERAL regexp_matches(body,
        '[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]+|[^\x01-\x20\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]+',
        'g') WITH ORDINALITY AS r(found, run)
    CROSS JOIN LATERAL (
        SELECT pair, substr(found[1], pair, 2) AS token
        FROM generate_series(1, length(found[1]) - 1) AS pair
        WHERE found[1] ~ '^[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]'
        UNION ALL
        SELECT 1, found[1]
        WHERE length(found[1]) = 1
           OR found[1] !~ '^[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]'
    ) AS tokens
$$;

-- A text that Immich's own tokenizer can't have made: emptied, or with three CJK characters in a
-- row, which pairs never are. Thumbnails made again and edits leave such texts (stock defects).
CREATE OR REPLACE FUNCTION indexer_v1.is_broken_search_text(search_text text) RETURNS boolean
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT search_text = '' OR search_text ~ '[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]{3}'
$$;

-- Whether two search texts have the same tokens: Immich's order is that of the answer it got.
CREATE OR REPLACE FUNCTION indexer_v1.same_tokens(one text, other text) RETURNS boolean
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array(SELECT unnest(string_to_array(one, ' ')) ORDER BY 1)
         = array(SELECT unnest(string_to_array(other, ' ')) ORDER BY 1)
$$;

CREATE OR REPLACE FUNCTION indexer_v1.is_edited(asset uuid) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM public.asset_file f
                   WHERE f."assetId" = asset AND f.type = 'preview'
                     AND coalesce((to_jsonb(f) ->> 'isEdited')::boolean, false))
$$;

-- What ocr_search.text should be: of the lines that Immich shows, else of those in the index.
CREATE OR REPLACE FUNCTION indexer_v1.right_search_text(asset uuid) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN EXISTS (SELECT FROM public.asset_ocr l WHERE l."assetId" = asset) THEN (
            SELECT indexer_v1.immich_search_text(coalesce(array_agg(l.text ORDER BY l.y1, l.x1), '{}'))
            FROM public.asset_ocr l
            WHERE l."assetId" = asset AND coalesce((to_jsonb(l) ->> 'isVisible')::boolean, true))
        ELSE (SELECT indexer_v1.immich_search_text(string_to_array(o.text, E'\n'))
              FROM indexer_v1.ocr o WHERE o.asset_id = asset)
    END
$$;

CREATE OR REPLACE FUNCTION indexer_v1.write_back_search_text(asset uuid) RETURNS void
LANGUAGE sql VOLATILE
SET search_path FROM CURRENT
AS $$
    UPDATE public.ocr_search s SET text = should_be.text
    FROM (SELECT indexer_v1.right_search_text(asset)) AS should_be(text)
    WHERE s."assetId" = asset AND should_be.text <> ''
      AND NOT indexer_v1.same_tokens(s.text, should_be.text)
$$;

-- A line's corners in the edited picture, eight numbers, as corners in the unedited one, which is
-- what Immich keeps: the other way round as its own transformOcrBoundingBox, edit by edit from the
-- last to the first, and last out of the crop. Points as shares of the width and the height; the
-- first is where the text begins. NULL where Immich doesn't know the size of the picture.
CREATE OR REPLACE FUNCTION indexer_v1.unedited_box(asset uuid, box jsonb) RETURNS real[]
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    original record;
    edit     record;
    crop     jsonb;
    turned   integer := 0;
    angle    integer;
    width    double precision; -- of the picture in which xs and ys are, in pixels
    height   double precision;
    xs       double precision[];
    ys       double precision[];
    was_x    double precision[];
BEGIN
    -- Immich's getDimensions
    SELECT CASE WHEN e.orientation IN ('5', '6', '7', '8', '-90', '90')
                THEN e."exifImageHeight" ELSE e."exifImageWidth" END AS width,
           CASE WHEN e.orientation IN ('5', '6', '7', '8', '-90', '90')
                THEN e."exifImageWidth" ELSE e."exifImageHeight" END AS height
    INTO original FROM public.asset_exif e WHERE e."assetId" = asset;
    IF coalesce(original.width, 0) <= 0 OR coalesce(original.height, 0) <= 0 THEN
        RETURN NULL;
    END IF;
    SELECT parameters INTO crop FROM public.asset_edit WHERE "assetId" = asset AND action = 'crop';
    width := coalesce((crop ->> 'width')::double precision, original.width);
    height := coalesce((crop ->> 'height')::double precision, original.height);
    IF (SELECT count(*) % 2 = 1 FROM public.asset_edit
        WHERE "assetId" = asset AND action = 'rotate' AND (parameters ->> 'angle')::integer IN (90, 270)) THEN
        SELECT height, width INTO width, height;
    END IF;
    FOR corner IN 0 .. 3 LOOP
        xs[corner] := (box ->> (2 * corner))::double precision * width;
        ys[corner] := (box ->> (2 * corner + 1))::double precision * height;
    END LOOP;
    FOR edit IN
        SELECT action, parameters FROM public.asset_edit
        WHERE "assetId" = asset AND action IN ('rotate', 'mirror') ORDER BY sequence DESC
    LOOP
        IF edit.action = 'rotate' THEN -- clockwise, so back the other way
            angle := (edit.parameters ->> 'angle')::integer;
            turned := angle / 90; -- the first edit's, which comes last here: as Immich does
            was_x := xs;
            FOR corner IN 0 .. 3 LOOP
                xs[corner] := CASE angle WHEN 90 THEN ys[corner] WHEN 180 THEN width - xs[corner]
                                         WHEN 270 THEN height - ys[corner] ELSE xs[corner] END;
                ys[corner] := CASE angle WHEN 90 THEN width - was_x[corner] WHEN 180 THEN height - ys[corner]
                                         WHEN 270 THEN was_x[corner] ELSE ys[corner] END;
            END LOOP;
            IF angle IN (90, 270) THEN
                SELECT height, width INTO width, height;
            END IF;
        ELSE
            FOR corner IN 0 .. 3 LOOP
                IF edit.parameters ->> 'axis' = 'horizontal' THEN
                    xs[corner] := width - xs[corner];
                ELSE
                    ys[corner] := height - ys[corner];
                END IF;
            END LOOP;
        END IF;
    END LOOP;
    RETURN (
        SELECT array_agg(share::real ORDER BY corner, is_y)
        FROM generate_series(0, 3) AS corner
        CROSS JOIN LATERAL (SELECT (corner + turned) % 4 AS from_corner) AS f
        CROSS JOIN LATERAL (VALUES
            (false, (xs[from_corner] + coalesce((crop ->> 'x')::double precision, 0)) / original.width),
            (true, (ys[from_corner] + coalesce((crop ->> 'y')::double precision, 0)) / original.height)
        ) AS v(is_y, share));
END
$$;

-- The lines of the index as Immich's OCR result. Of an edited photo the index has what the edited
-- picture shows, and Immich keeps where that is in the unedited one, beside the lines that a crop
-- has hidden: those stay.
CREATE OR REPLACE FUNCTION indexer_v1.write_back_ocr(asset uuid) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path FROM CURRENT
AS $$
DECLARE
    read   indexer_v1.ocr;
    edited boolean := indexer_v1.is_edited(asset);
BEGIN
    -- Locked: a newer result that is just being written found its row in write_back, and wouldn't
    -- be written to Immich if the old one were read here.
    SELECT * INTO read FROM indexer_v1.ocr o WHERE o.asset_id = asset FOR SHARE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    DELETE FROM public.asset_ocr l
    WHERE l."assetId" = asset
      AND NOT (edited AND coalesce((to_jsonb(l) ->> 'isVisible')::boolean, true) IS FALSE);
    INSERT INTO public.asset_ocr
        ("assetId", x1, y1, x2, y2, x3, y3, x4, y4, "boxScore", "textScore", text)
    SELECT asset, b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8],
           (line ->> 'box_score')::real, (line ->> 'text_score')::real, line ->> 'text'
    FROM jsonb_array_elements(read.lines) AS line
    CROSS JOIN LATERAL (
        SELECT CASE WHEN edited THEN indexer_v1.unedited_box(asset, line -> 'box')
                    ELSE (SELECT array_agg(n::real ORDER BY place)
                          FROM jsonb_array_elements_text(line -> 'box') WITH ORDINALITY AS t(n, place))
               END AS b) AS box
    WHERE b IS NOT NULL;
    IF read.text = '' THEN
        DELETE FROM public.ocr_search WHERE "assetId" = asset;
    ELSE
        INSERT INTO public.ocr_search ("assetId", text)
        VALUES (asset, indexer_v1.immich_search_text(string_to_array(read.text, E'\n')))
        ON CONFLICT ("assetId") DO UPDATE SET text = excluded.text;
    END IF;
    UPDATE public.asset_job_status SET "ocrAt" = now() WHERE "assetId" = asset;
END
$$;

-- The embedding of the index as Immich's, where its column has the same dimension.
CREATE OR REPLACE FUNCTION indexer_v1.write_back_clip(asset uuid) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path FROM CURRENT
AS $$
BEGIN
    PERFORM FROM indexer_v1.clip c WHERE c.asset_id = asset FOR SHARE; -- as in write_back_ocr
    INSERT INTO public.smart_search ("assetId", embedding)
    SELECT c.asset_id, c.embedding::vector
    FROM indexer_v1.clip c
    JOIN pg_attribute column_of ON column_of.attrelid = to_regclass('public.smart_search')
                               AND column_of.attname = 'embedding'
                               AND column_of.atttypmod IN (-1, vector_dims(c.embedding))
    WHERE c.asset_id = asset
    ON CONFLICT ("assetId") DO UPDATE SET embedding = excluded.embedding;
END
$$;

-- Write what waits, each photo in a subtransaction of its own; one that fails is tried three times
-- in all. The photo is locked before the rows that go with it, as Immich does when it deletes it:
-- the other way round its DELETE could end in a deadlock with this. For the same reason it is best
-- called for one at a time. with_clip: whether Immich's embeddings are of the same model as the index's.
CREATE OR REPLACE FUNCTION indexer_v1.flush_write_back(max_rows integer, with_clip boolean)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '2s'
AS $$
DECLARE
    item    record;
    written bigint := 0;
BEGIN
    IF to_regclass('public.asset_ocr') IS NULL OR to_regclass('public.ocr_search') IS NULL THEN
        DELETE FROM indexer_v1.write_back; -- no Immich here
        RETURN 0;
    END IF;
    FOR item IN
        SELECT w.asset_id, w.what, w.attempts
        FROM indexer_v1.write_back w JOIN public.asset a ON a.id = w.asset_id
        ORDER BY w.attempts, w.asset_id LIMIT max_rows
        FOR KEY SHARE OF a SKIP LOCKED FOR UPDATE OF w SKIP LOCKED
    LOOP
        BEGIN
            IF item.what = 'ocr' THEN
                PERFORM indexer_v1.write_back_ocr(item.asset_id);
            ELSIF item.what = 'search_text' THEN
                PERFORM indexer_v1.write_back_search_text(item.asset_id);
            ELSIF with_clip THEN
                PERFORM indexer_v1.write_back_clip(item.asset_id);
            END IF;
            DELETE FROM indexer_v1.write_back w
            WHERE w.asset_id = item.asset_id AND w.what = item.what;
            written := written + 1;
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'immich-indexer: % of % not written to Immich: %',
                item.what, item.asset_id, SQLERRM;
            IF item.attempts >= 2 THEN
                DELETE FROM indexer_v1.write_back w
                WHERE w.asset_id = item.asset_id AND w.what = item.what;
            ELSE
                UPDATE indexer_v1.write_back w SET attempts = attempts + 1
                WHERE w.asset_id = item.asset_id AND w.what = item.what;
            END IF;
        END;
    END LOOP;
    RETURN written;
END
$$;

-- Take the tags of ended requests off, in transactions of their own; leave reprocess/failed where
-- it couldn't be done, until it can.
CREATE OR REPLACE FUNCTION indexer_v1.settle_tags(max_rows integer DEFAULT 100) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path FROM CURRENT
SET lock_timeout = '2s'
AS $$
DECLARE
    request record;
    settled bigint := 0;
BEGIN
    FOR request IN
        SELECT r.id, r.asset_id, r.tag_id, r.status LIKE 'failed%' AS failed
        FROM indexer_v1.reprocess r
        WHERE r.tag_id IS NOT NULL AND r.finished_at IS NOT NULL
        ORDER BY random() -- one that can't be settled must not keep the others waiting
        LIMIT max_rows FOR UPDATE SKIP LOCKED
    LOOP
        BEGIN
            -- As in flush_write_back. A photo that is gone has no tags to take off.
            PERFORM FROM public.asset a WHERE a.id = request.asset_id FOR KEY SHARE SKIP LOCKED;
            CONTINUE WHEN NOT FOUND
                AND EXISTS (SELECT FROM public.asset a WHERE a.id = request.asset_id);
            -- Immich is putting this photo's tags on: they can't be seen yet.
            CONTINUE WHEN NOT pg_try_advisory_xact_lock(46642448, indexer_v1.tag_lock(request.asset_id));
            IF request.failed THEN
                PERFORM indexer_v1.put_failed_tag(request.asset_id, request.tag_id);
            ELSE -- an earlier request may have failed
                DELETE FROM public.tag_asset ta USING public.tag t, public.tag asking
                WHERE ta."assetId" = request.asset_id AND ta."tagId" = t.id
                  AND t.value = 'reprocess/failed' AND t."userId" = asking."userId"
                  AND asking.id = request.tag_id;
            END IF;
            DELETE FROM public.tag_asset
            WHERE "assetId" = request.asset_id AND "tagId" = request.tag_id;
            PERFORM indexer_v1.copy_tags_to_exif(request.asset_id);
            UPDATE indexer_v1.reprocess SET tag_id = NULL WHERE id = request.id;
            settled := settled + 1;
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'immich-indexer: tag of % not taken off: %', request.asset_id, SQLERRM;
        END;
    END LOOP;
    RETURN settled;
END
$$;

-- reprocess/failed, below the tag `reprocess` of the same user, made where missing.
CREATE OR REPLACE FUNCTION indexer_v1.put_failed_tag(asset uuid, asking_tag uuid) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path FROM CURRENT
AS $$
DECLARE
    tag_owner uuid;
    parent    uuid;
    failed    uuid;
BEGIN
    SELECT t."userId" INTO tag_owner FROM public.tag t WHERE t.id = asking_tag;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    parent := indexer_v1.ensure_tag(tag_owner, 'reprocess', NULL);
    failed := indexer_v1.ensure_tag(tag_owner, 'reprocess/failed', parent);
    INSERT INTO public.tag_asset ("assetId", "tagId")
    SELECT a.id, failed FROM public.asset a WHERE a.id = asset -- it may have been deleted
    ON CONFLICT DO NOTHING;
END
$$;

CREATE OR REPLACE FUNCTION indexer_v1.ensure_tag(tag_owner uuid, name text, parent uuid) RETURNS uuid
LANGUAGE plpgsql VOLATILE
SET search_path FROM CURRENT
AS $$
DECLARE
    made uuid;
BEGIN
    SELECT t.id INTO made FROM public.tag t WHERE t."userId" = tag_owner AND t.value = name;
    IF FOUND THEN
        RETURN made;
    END IF;
    INSERT INTO public.tag ("userId", value, "parentId") VALUES (tag_owner, name, parent)
    RETURNING id INTO made;
    -- The closure: every tag is its own descendant, and one of all its ancestors.
    INSERT INTO public.tag_closure (id_ancestor, id_descendant)
    SELECT made, made
    UNION
    SELECT c.id_ancestor, made FROM public.tag_closure c WHERE c.id_descendant = parent
    ON CONFLICT DO NOTHING;
    RETURN made;
END
$$;

-- Later Immich remembers an asset's tags in asset_exif and in a sidecar file too, and metadata read
-- again puts those of the file back on. Not where the column is locked, which is how Immich itself
-- marks what a sidecar doesn't have yet.
CREATE OR REPLACE FUNCTION indexer_v1.copy_tags_to_exif(asset uuid) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path FROM CURRENT
AS $$
DECLARE
    has text[] := ARRAY(SELECT a.attname FROM pg_attribute a
                        WHERE a.attrelid = to_regclass('public.asset_exif') AND NOT a.attisdropped
                          AND a.attname IN ('tags', 'lockedProperties'));
BEGIN
    IF 'tags' = ANY (has) THEN
        UPDATE public.asset_exif e SET tags = (
            SELECT coalesce(array_agg(t.value ORDER BY t.value), '{}')
            FROM public.tag_asset ta JOIN public.tag t ON t.id = ta."tagId"
            WHERE ta."assetId" = asset)
        WHERE e."assetId" = asset;
    END IF;
    IF has @> '{tags,lockedProperties}' THEN
        UPDATE public.asset_exif e
        SET "lockedProperties" = array_append(e."lockedProperties", 'tags')
        WHERE e."assetId" = asset AND 'tags' <> ALL (coalesce(e."lockedProperties", '{}'));
    END IF;
END
$$;

-- The sweep: tags whose event was missed become requests, broken search texts and missing
-- embeddings of edited photos wait to be written. Returns how many were found.
CREATE OR REPLACE FUNCTION indexer_v1.find_mendable(with_clip boolean) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found bigint := 0;
    more  bigint;
BEGIN
    IF to_regclass('public.ocr_search') IS NULL OR to_regclass('public.smart_search') IS NULL THEN
        RETURN 0;
    END IF;
    INSERT INTO indexer_v1.write_back (asset_id, what)
    SELECT indexer_v1.keep_photos(ARRAY(
        SELECT s."assetId" FROM public.ocr_search s
        WHERE indexer_v1.is_broken_search_text(s.text)
          AND coalesce(indexer_v1.right_search_text(s."assetId"), '') NOT IN ('', s.text)
    )), 'search_text'
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS found = ROW_COUNT;
    IF with_clip THEN
        INSERT INTO indexer_v1.write_back (asset_id, what)
        SELECT indexer_v1.keep_photos(ARRAY(
            SELECT f."assetId"
            FROM public.asset_file f
            JOIN indexer_v1.clip c ON c.asset_id = f."assetId"
            WHERE f.type = 'preview' AND coalesce((to_jsonb(f) ->> 'isEdited')::boolean, false)
              AND NOT EXISTS (SELECT FROM public.smart_search s WHERE s."assetId" = f."assetId")
        )), 'clip'
        ON CONFLICT DO NOTHING;
        GET DIAGNOSTICS more = ROW_COUNT;
        found := found + more;
    END IF;
    RETURN found;
END
$$;

-- Tags that ask for a photo to be redone, put on while nobody saw it.
CREATE OR REPLACE FUNCTION indexer_v1.find_tags() RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found bigint;
BEGIN
    IF to_regclass('public.tag_asset') IS NULL THEN
        RETURN 0;
    END IF;
    INSERT INTO indexer_v1.reprocess (asset_id, task, tag_id)
    SELECT ta."assetId", CASE t.value WHEN 'reprocess' THEN 'all' ELSE split_part(t.value, '/', 2) END,
           t.id
    FROM public.tag t JOIN public.tag_asset ta ON ta."tagId" = t.id
    WHERE t.value IN ('reprocess', 'reprocess/ocr', 'reprocess/clip')
      AND NOT EXISTS (SELECT FROM indexer_v1.reprocess r
                      WHERE r.asset_id = ta."assetId" AND r.tag_id = t.id)
    ORDER BY 1; -- as in on_tag_asset
    GET DIAGNOSTICS found = ROW_COUNT;
    RETURN found;
END
$$;
