-- How the index is, in one look. See indexer/status.py for what the names mean.
--   owners  whose photos are counted; NULL for everybody's
--   shown   whose photos may be named as examples of what failed (of these, none that are trashed,
--           locked or hidden); NULL: anything, for who has the database anyway
CREATE OR REPLACE FUNCTION indexer_v1.status(
    owners uuid[] DEFAULT NULL, shown uuid[] DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    RETURN jsonb_build_object(
        'looked_at', now(),
        'photos', (
            SELECT count(DISTINCT f."assetId") FROM public.asset_file f
            WHERE f.type = 'preview'
              AND (owners IS NULL OR EXISTS (SELECT FROM public.asset a WHERE a.id = f."assetId"
                                             AND a."ownerId" = ANY (owners)))),
        'read', (
            SELECT count(*) FROM indexer_v1.ocr o
            WHERE owners IS NULL OR EXISTS (SELECT FROM public.asset a WHERE a.id = o.asset_id
                                            AND a."ownerId" = ANY (owners))),
        'embedded', (
            SELECT count(*) FROM indexer_v1.clip c
            WHERE owners IS NULL OR EXISTS (SELECT FROM public.asset a WHERE a.id = c.asset_id
                                            AND a."ownerId" = ANY (owners))),
        'queue', (
            SELECT coalesce(jsonb_agg(to_jsonb(q)), '[]') FROM indexer_v1.queue(owners) AS q),
        'workers', (
            SELECT coalesce(jsonb_agg(to_jsonb(w) - '{id,seen_at}'::text[] ORDER BY w.started_at), '[]')
            FROM indexer_v1.worker w WHERE w.seen_at > now() - interval '30 seconds'),
        'failures', (
            SELECT coalesce(jsonb_agg(to_jsonb(f) ORDER BY f.photos DESC, f.task, f.reason), '[]')
            FROM (
                SELECT j.task, coalesce(j.last_error, '') AS reason, count(*) AS photos,
                       coalesce((array_agg(jsonb_build_array(a.id, a."originalFileName")
                                           ORDER BY a."originalFileName", a.id)
                                 FILTER (WHERE shown IS NULL
                                         OR (a."ownerId" = ANY (shown) AND a."deletedAt" IS NULL
                                             AND a.visibility IN ('timeline', 'archive'))))[1:12],
                                '{}') AS examples
                FROM indexer_v1.job j JOIN public.asset a ON a.id = j.asset_id
                WHERE j.dead_at IS NOT NULL AND (owners IS NULL OR a."ownerId" = ANY (owners))
                GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT 20
            ) AS f),
        'clip_model', (
            SELECT regexp_replace(s.value, '/[0-9]+$', '')
            FROM indexer_v1.setting s WHERE s.name = 'clip_model'));
END
$$;
