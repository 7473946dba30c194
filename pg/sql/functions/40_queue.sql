-- The queue's API. A worker: claim → infer, outside any transaction, renewing the lease → in one
-- transaction: hold, write results, acknowledge or fail. Everybody else: enqueue.
--
-- Locks: Immich's transactions must never wait long on ours, nor end in a deadlock with them. So
-- whoever works takes locks with SKIP LOCKED, photos (public.asset) before jobs, for milliseconds.
-- But a row that was changed after the statement began, and is being changed again, PostgreSQL
-- doesn't skip: it waits (heap_lock_updated_tuple). So jobs are locked in the order of asset_id and
-- task; who can't, or also locks photos, gives up after 50 ms (lock_timeout) and begins anew.

-- Something happened to these assets: a job for each task, once, whatever was waiting already. A
-- job that is running keeps its lease; its revision has moved, so it will run once more.
CREATE OR REPLACE FUNCTION indexer_v1.enqueue(
    asset_ids uuid[], tasks text[] DEFAULT '{ocr,clip}',
    priority integer DEFAULT 0, force boolean DEFAULT false)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    enqueued bigint;
BEGIN
    INSERT INTO indexer_v1.job AS j (asset_id, task, priority, force)
    SELECT DISTINCT a.asset_id, t.task, enqueue.priority, enqueue.force
    FROM unnest(asset_ids) AS a(asset_id) CROSS JOIN unnest(tasks) AS t(task)
    ORDER BY 1, 2 -- one order for everybody: no deadlocks among Immich's own transactions
    ON CONFLICT (asset_id, task) DO UPDATE SET
        revision = j.revision + 1,
        priority = greatest(j.priority, excluded.priority),
        force = j.force OR excluded.force,
        attempts = 0,
        next_at = least(j.next_at, now()),
        -- Since when it waits: a dead one didn't.
        created_at = CASE WHEN j.dead_at IS NULL THEN j.created_at ELSE now() END,
        dead_at = NULL,
        last_error = NULL;
    GET DIAGNOSTICS enqueued = ROW_COUNT;
    IF enqueued > 0 THEN
        PERFORM pg_notify('indexer_v1', ''); -- one payload: PostgreSQL merges repeats
    END IF;
    RETURN enqueued;
END
$$;

-- What happens to jobs, for who watches (the gateway's page); workers don't listen to this. A payload
-- is below 8000 bytes: {"state": "done", "jobs": [["<asset>", "ocr"], …]}
CREATE OR REPLACE FUNCTION indexer_v1.announce(state text, asset_ids uuid[], tasks text[])
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT pg_notify('indexer_v1_events', jsonb_build_object(
        'state', state, 'jobs', jsonb_agg(jsonb_build_array(j.asset_id, j.task)))::text)
    FROM (
        SELECT asset_id, task, (n - 1) / 100 AS message
        FROM unnest(asset_ids, tasks) WITH ORDINALITY AS u(asset_id, task, n)
    ) AS j
    GROUP BY j.message
$$;

-- A request ends for one task; when it was the last one the row is stamped.
CREATE OR REPLACE FUNCTION indexer_v1.stamp_reprocess(
    asset uuid, ended_task text, error text DEFAULT NULL)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE indexer_v1.reprocess SET
        remaining = array_remove(remaining, ended_task),
        status = CASE
            WHEN error IS NULL AND status <> 'waiting' THEN status
            WHEN error IS NULL THEN
                CASE WHEN remaining <@ ARRAY[ended_task] THEN 'done' ELSE 'waiting' END
            WHEN status = 'waiting' THEN 'failed: ' || ended_task || ': ' || error
            ELSE status || '; ' || ended_task || ': ' || error
        END,
        finished_at = CASE WHEN remaining <@ ARRAY[ended_task] THEN now() END
    WHERE asset_id = asset AND finished_at IS NULL AND ended_task = ANY (remaining)
$$;

-- Take up to max_jobs jobs, most urgent first. Attempts are counted here: a crash counts, and one
-- that has used its attempts up is dead.
--
-- A suspect was claimed before and neither ended nor failed: its worker died, perhaps of it. It is
-- taken alone (with the same photo's other task), so that it takes no neighbour along, and only
-- where the caller says that nothing else will run beside it.
--
-- Who names the lease (new_token) can give it back even if this answer never arrives.
DROP FUNCTION IF EXISTS indexer_v1.claim(text[], integer, interval, integer, boolean);
CREATE OR REPLACE FUNCTION indexer_v1.claim(
    tasks text[], max_jobs integer, lease interval, max_attempts integer,
    suspects boolean DEFAULT true, new_token uuid DEFAULT gen_random_uuid())
RETURNS TABLE (
    asset_id uuid, task text, revision bigint, attempts smallint, force boolean,
    token uuid, path text, known_hash bytea, known_model text, suspect boolean)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
SET lock_timeout = 0
AS $$
#variable_conflict use_column
DECLARE
    head   record;
    reason text;
BEGIN
    -- One at a time: two at once would share out the tasks of one photo, and both would read it.
    PERFORM pg_advisory_xact_lock(hashtext('indexer_v1.claim'));
    PERFORM set_config('lock_timeout', '50ms', true); -- until this function ends
    LOOP
        SELECT j.asset_id, j.task, j.attempts, j.attempts > 0 AND j.last_error IS NULL AS suspect
        INTO head
        FROM indexer_v1.job j
        WHERE j.dead_at IS NULL AND j.next_at <= now() AND j.task = ANY (claim.tasks)
          AND (j.lease_until IS NULL OR j.lease_until <= now())
          AND (suspects OR j.attempts = 0 OR j.last_error IS NOT NULL)
        ORDER BY j.priority DESC, j.next_at, j.asset_id
        LIMIT 1 FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        EXIT WHEN head.attempts < claim.max_attempts;
        reason := 'the worker ended ' || head.attempts || ' times while it worked on this photo,'
                  ' or the database''s session did';
        UPDATE indexer_v1.job j SET
            dead_at = now(), last_error = reason, lease_until = NULL, lease_token = NULL
        WHERE j.asset_id = head.asset_id AND j.task = head.task;
        PERFORM indexer_v1.stamp_reprocess(head.asset_id, head.task, reason);
        PERFORM indexer_v1.announce('dead', ARRAY[head.asset_id], ARRAY[head.task]);
    END LOOP;

    RETURN QUERY
    WITH picked AS (
        SELECT j.asset_id, j.task
        FROM indexer_v1.job j
        WHERE j.dead_at IS NULL AND j.next_at <= now() AND j.task = ANY (claim.tasks)
          AND (j.lease_until IS NULL OR j.lease_until <= now())
          AND j.attempts < claim.max_attempts
          AND CASE WHEN head.suspect THEN j.asset_id = head.asset_id
                   ELSE j.attempts = 0 OR j.last_error IS NOT NULL END
        ORDER BY j.priority DESC, j.next_at, j.asset_id
        LIMIT claim.max_jobs FOR UPDATE SKIP LOCKED
    ), claimed AS (
        UPDATE indexer_v1.job j SET
            attempts = j.attempts + 1, last_error = NULL,
            lease_until = now() + claim.lease, lease_token = new_token
        FROM picked p
        WHERE j.asset_id = p.asset_id AND j.task = p.task
        RETURNING j.asset_id, j.task, j.revision, j.attempts, j.force, j.priority, j.created_at
    )
    SELECT c.asset_id, c.task, c.revision, c.attempts, c.force, new_token,
           indexer_v1.preview_path(c.asset_id),
           CASE c.task WHEN 'ocr' THEN o.content_hash ELSE v.content_hash END,
           CASE c.task WHEN 'ocr' THEN o.model ELSE v.model END,
           head.suspect
    FROM claimed c
    LEFT JOIN indexer_v1.ocr o ON c.task = 'ocr' AND o.asset_id = c.asset_id
    LEFT JOIN indexer_v1.clip v ON c.task = 'clip' AND v.asset_id = c.asset_id
    ORDER BY c.priority DESC, c.created_at, c.asset_id;

    -- Somebody waits for these.
    PERFORM indexer_v1.announce('running', array_agg(j.asset_id), array_agg(j.task))
    FROM indexer_v1.job j WHERE j.lease_token = new_token AND j.priority >= 100;
END
$$;

-- The preview to index: the edited one where there is one. Read through to_jsonb, because
-- "isEdited" came with Immich 2.5 and a dependency on Immich's columns would block its migrations.
CREATE OR REPLACE FUNCTION indexer_v1.preview_path(asset uuid) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT f.path
    FROM public.asset_file f
    WHERE f."assetId" = asset AND f.type = 'preview'
    ORDER BY coalesce((to_jsonb(f) ->> 'isEdited')::boolean, false) DESC
    LIMIT 1
$$;

-- Still at work on these: keep the lease. Returns how many were renewed. One that another
-- transaction holds is passed over: whoever waited for it would let all other leases run out.
CREATE OR REPLACE FUNCTION indexer_v1.renew(token uuid, lease interval) RETURNS bigint
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH mine AS (
        SELECT asset_id, task FROM indexer_v1.job WHERE lease_token = token
        ORDER BY 1, 2 FOR UPDATE SKIP LOCKED
    ), renewed AS (
        UPDATE indexer_v1.job j SET lease_until = now() + lease
        FROM mine m WHERE j.asset_id = m.asset_id AND j.task = m.task
        RETURNING 1
    )
    SELECT count(*) FROM renewed
$$;

-- Those of these photos that Immich isn't deleting just now; nor can it before this transaction ends.
CREATE OR REPLACE FUNCTION indexer_v1.keep_photos(asset_ids uuid[]) RETURNS SETOF uuid
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.id FROM public.asset a WHERE a.id = ANY (asset_ids)
    ORDER BY a.id FOR KEY SHARE SKIP LOCKED
$$;

-- Lock what this lease still owns, for the transaction that writes results. What is missing from
-- the answer: another transaction holds it right now (ask again), or it is no longer ours.
CREATE OR REPLACE FUNCTION indexer_v1.hold(token uuid, asset_ids uuid[])
RETURNS TABLE (asset_id uuid, task text, revision bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '50ms'
AS $$
#variable_conflict use_column
DECLARE
    kept uuid[] := ARRAY(SELECT indexer_v1.keep_photos(asset_ids));
BEGIN
    RETURN QUERY
    SELECT j.asset_id, j.task, j.revision
    FROM indexer_v1.job j
    WHERE j.asset_id = ANY (kept) AND j.lease_token = hold.token
    ORDER BY j.asset_id, j.task FOR UPDATE SKIP LOCKED;
END
$$;

-- Done. A job whose revision has moved since the claim goes back to the queue instead; it finds
-- the picture unchanged or not when it is read again.
CREATE OR REPLACE FUNCTION indexer_v1.acknowledge(
    token uuid, asset_ids uuid[], tasks text[], revisions bigint[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ended       record;
    ended_ids   uuid[] := '{}';
    ended_tasks text[] := '{}';
BEGIN
    FOR ended IN
        WITH gone AS (
            DELETE FROM indexer_v1.job j
            USING unnest(asset_ids, tasks, revisions) AS d(asset_id, task, revision)
            WHERE j.asset_id = d.asset_id AND j.task = d.task AND j.revision = d.revision
              AND j.lease_token = token
            RETURNING j.asset_id, j.task
        )
        -- In order: another worker may end the other tasks of the same photos.
        SELECT asset_id, task FROM gone ORDER BY 1, 2
    LOOP
        PERFORM indexer_v1.stamp_reprocess(ended.asset_id, ended.task);
        ended_ids := ended_ids || ended.asset_id;
        ended_tasks := ended_tasks || ended.task;
    END LOOP;
    PERFORM indexer_v1.announce('done', ended_ids, ended_tasks);

    UPDATE indexer_v1.job j SET
        attempts = 0, lease_until = NULL, lease_token = NULL, next_at = now()
    FROM unnest(asset_ids, tasks) AS d(asset_id, task)
    WHERE j.asset_id = d.asset_id AND j.task = d.task AND j.lease_token = token;
    IF FOUND THEN
        PERFORM pg_notify('indexer_v1', '');
    END IF;
END
$$;

-- How long a job rests after its so many-th attempt.
CREATE OR REPLACE FUNCTION indexer_v1.pause_after(attempts integer) RETURNS interval
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT interval '5 seconds' * power(2, least(attempts, 10))
$$;

-- Didn't work. Tried again later, each time twice as late, unless trying again can't help or the
-- attempts are used up: then it is dead, with its reason, until its picture changes, somebody asks
-- for it, or `requeue`.
CREATE OR REPLACE FUNCTION indexer_v1.fail(
    token uuid, asset uuid, failed_task text, claimed_revision bigint, error text,
    permanent boolean, max_attempts integer)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    j   indexer_v1.job;
    die boolean;
BEGIN
    SELECT * INTO j FROM indexer_v1.job
    WHERE asset_id = asset AND task = failed_task AND lease_token = token FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF j.revision <> claimed_revision THEN -- it failed for a picture that is history
        UPDATE indexer_v1.job
        SET attempts = 0, lease_until = NULL, lease_token = NULL, next_at = now()
        WHERE asset_id = asset AND task = failed_task;
        PERFORM pg_notify('indexer_v1', '');
        RETURN;
    END IF;
    die := permanent OR j.attempts >= max_attempts;
    UPDATE indexer_v1.job SET
        lease_until = NULL, lease_token = NULL, last_error = left(error, 2000),
        dead_at = CASE WHEN die THEN now() END,
        next_at = now() + indexer_v1.pause_after(j.attempts)
    WHERE asset_id = asset AND task = failed_task;
    IF die THEN
        PERFORM indexer_v1.stamp_reprocess(asset, failed_task, left(error, 2000));
    END IF;
    PERFORM indexer_v1.announce(
        CASE WHEN die THEN 'dead' ELSE 'retrying' END, ARRAY[asset], ARRAY[failed_task]);
END
$$;

-- Give everything of this lease back, uncharged: the worker stops, or something all photos need
-- (the media folder, the model) is away. What another transaction holds stays until its lease ends.
-- Charged are those that may themselves have ended the database's session: they become suspects.
DROP FUNCTION IF EXISTS indexer_v1.release(uuid, interval);
CREATE OR REPLACE FUNCTION indexer_v1.release(
    token uuid, delay interval DEFAULT '0', charged uuid[] DEFAULT '{}')
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    released bigint;
BEGIN
    UPDATE indexer_v1.job j SET
        attempts = greatest(j.attempts - (j.asset_id <> ALL (charged))::integer, 0),
        lease_until = NULL, lease_token = NULL,
        next_at = now() + CASE WHEN j.asset_id = ANY (charged)
                               THEN indexer_v1.pause_after(j.attempts) ELSE delay END
    FROM (
        SELECT mine.asset_id, mine.task FROM indexer_v1.job mine
        WHERE mine.lease_token = token ORDER BY 1, 2 FOR UPDATE SKIP LOCKED
    ) AS m
    WHERE j.asset_id = m.asset_id AND j.task = m.task;
    GET DIAGNOSTICS released = ROW_COUNT;
    IF released > 0 THEN
        PERFORM pg_notify('indexer_v1', '');
    END IF;
    RETURN released;
END
$$;

-- Their files are away for now, which is held against nobody: nobody tries them for so long.
CREATE OR REPLACE FUNCTION indexer_v1.put_off(asset_ids uuid[], delay interval) RETURNS bigint
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH free AS (
        SELECT j.asset_id, j.task FROM indexer_v1.job j
        WHERE j.asset_id = ANY (asset_ids) AND (j.lease_until IS NULL OR j.lease_until <= now())
        ORDER BY 1, 2 FOR UPDATE SKIP LOCKED
    ), put_off AS (
        UPDATE indexer_v1.job j SET
            next_at = greatest(j.next_at, now() + delay), attempts = 0,
            dead_at = NULL, last_error = NULL
        FROM free f WHERE j.asset_id = f.asset_id AND j.task = f.task
        RETURNING 1
    )
    SELECT count(*) FROM put_off
$$;

-- Dead letters go back to work: all, or those of some photos, one owner, one task, one reason.
DROP FUNCTION IF EXISTS indexer_v1.requeue(uuid[]);

CREATE OR REPLACE FUNCTION indexer_v1.requeue(
    asset_ids uuid[] DEFAULT NULL, owner uuid DEFAULT NULL, failed_task text DEFAULT NULL,
    reason text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    requeued bigint;
BEGIN
    UPDATE indexer_v1.job j SET
        dead_at = NULL, attempts = 0, last_error = NULL, next_at = now(), created_at = now(),
        revision = j.revision + 1
    FROM (
        SELECT dead.asset_id, dead.task FROM indexer_v1.job dead
        WHERE dead.dead_at IS NOT NULL
          AND (asset_ids IS NULL OR dead.asset_id = ANY (asset_ids))
          AND (owner IS NULL OR EXISTS (SELECT FROM public.asset a
                                        WHERE a.id = dead.asset_id AND a."ownerId" = owner))
          AND (failed_task IS NULL OR dead.task = failed_task)
          AND (reason IS NULL OR coalesce(dead.last_error, '') = reason)
        -- One that is held has an event this moment, which revives it, or Immich deletes the photo.
        ORDER BY 1, 2 FOR UPDATE SKIP LOCKED
    ) AS d
    WHERE j.asset_id = d.asset_id AND j.task = d.task;
    GET DIAGNOSTICS requeued = ROW_COUNT;
    IF requeued > 0 THEN
        PERFORM pg_notify('indexer_v1', '');
    END IF;
    RETURN requeued;
END
$$;

-- One step of the backfill: looks at the next `size` assets after `after` and enqueues those that
-- have a preview but no job, and no result by the models in use. last is NULL at the end.
CREATE OR REPLACE FUNCTION indexer_v1.backfill(
    after uuid, size integer, OUT last uuid, OUT enqueued bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    ocr_model  text := (SELECT value FROM indexer_v1.setting WHERE name = 'ocr_model');
    clip_model text := (SELECT value FROM indexer_v1.setting WHERE name = 'clip_model');
    page uuid[];
BEGIN
    clip_model := regexp_replace(clip_model, '/[0-9]+$', ''); -- without the dimension
    SELECT array_agg(p.id ORDER BY p.id) INTO page FROM (
        SELECT a.id FROM public.asset a
        WHERE after IS NULL OR a.id > after ORDER BY a.id LIMIT size
    ) AS p;
    last := page[cardinality(page)];
    WITH lost AS MATERIALIZED (
        SELECT p.id, t.task
        FROM unnest(page) AS p(id) CROSS JOIN (VALUES ('ocr'), ('clip')) AS t(task)
        WHERE EXISTS (SELECT FROM public.asset_file f WHERE f."assetId" = p.id AND f.type = 'preview')
          AND NOT EXISTS (SELECT FROM indexer_v1.job j WHERE j.asset_id = p.id AND j.task = t.task)
          AND CASE t.task
                  WHEN 'ocr' THEN NOT EXISTS (
                      SELECT FROM indexer_v1.ocr o
                      WHERE o.asset_id = p.id AND o.model = coalesce(ocr_model, o.model))
                  ELSE NOT EXISTS (
                      SELECT FROM indexer_v1.clip c
                      WHERE c.asset_id = p.id AND c.model = coalesce(clip_model, c.model))
              END
    ), kept AS MATERIALIZED (
        -- Those that Immich is deleting are left: who waits for one and holds others may deadlock.
        SELECT indexer_v1.keep_photos(ARRAY(SELECT l.id FROM lost l)) AS id
    )
    INSERT INTO indexer_v1.job (asset_id, task, priority)
    SELECT l.id, l.task, -1 FROM lost l JOIN kept k ON k.id = l.id
    ORDER BY 1, 2 -- the order of enqueue
    ON CONFLICT DO NOTHING; -- an event was quicker
    GET DIAGNOSTICS enqueued = ROW_COUNT;
    IF enqueued > 0 THEN
        PERFORM pg_notify('indexer_v1', '');
    END IF;
END
$$;

-- The server's clock was wrong when these were written, and has been set back: nothing rests that
-- long. Without this they would wait until the clock is there again. A worker that still works on
-- one has renewed its lease in the meantime.
CREATE OR REPLACE FUNCTION indexer_v1.undo_clock_jump(lease interval) RETURNS bigint
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH late AS (
        SELECT asset_id, task FROM indexer_v1.job
        WHERE dead_at IS NULL
          AND (next_at > now() + indexer_v1.pause_after(attempts) + interval '1 minute'
               OR lease_until > now() + 2 * lease + interval '1 minute')
        ORDER BY 1, 2 FOR UPDATE SKIP LOCKED
    ), moved AS (
        UPDATE indexer_v1.job j
        SET next_at = least(j.next_at, now()), lease_until = least(j.lease_until, now())
        FROM late l WHERE j.asset_id = l.asset_id AND j.task = l.task
        RETURNING 1
    )
    SELECT count(*) FROM moved
$$;

-- Requests whose photo has gone while they waited would wait for ever.
CREATE OR REPLACE FUNCTION indexer_v1.close_orphaned_requests() RETURNS bigint
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH closed AS (
        UPDATE indexer_v1.reprocess r
        SET status = 'failed: the photo was deleted', remaining = '{}', finished_at = now()
        WHERE r.finished_at IS NULL
          AND NOT EXISTS (SELECT FROM public.asset a WHERE a.id = r.asset_id)
        RETURNING 1
    )
    SELECT count(*) FROM closed
$$;

-- The queue by task and state, for people. owners: whose photos; NULL for everybody's.
DROP FUNCTION IF EXISTS indexer_v1.queue();

CREATE OR REPLACE FUNCTION indexer_v1.queue(owners uuid[] DEFAULT NULL)
RETURNS TABLE (task text, state text, jobs bigint, oldest timestamptz)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT j.task,
           CASE WHEN j.dead_at IS NOT NULL THEN 'dead'
                WHEN j.lease_until > now() THEN 'running'
                WHEN j.attempts > 0 THEN 'retrying'
                ELSE 'waiting' END,
           count(*), min(j.created_at)
    FROM indexer_v1.job j
    WHERE owners IS NULL
       OR EXISTS (SELECT FROM public.asset a WHERE a.id = j.asset_id AND a."ownerId" = ANY (owners))
    GROUP BY 1, 2
    ORDER BY 1, 2
$$;
