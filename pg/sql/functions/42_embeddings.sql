-- The index of embeddings, and the model that they are made with.

-- How the index of embeddings is built: as much work as Immich puts into its own. With
-- ef_construction 100, the graph of 100,000 photos (make bench-search) didn't lead to 3 % of the
-- hundred nearest, however long it was searched, and to 17 % of a quarter's hundred nearest.
CREATE OR REPLACE FUNCTION indexer_v1.clip_index_options() RETURNS text[]
LANGUAGE sql IMMUTABLE
AS $$ SELECT '{m=16,ef_construction=300}'::text[] $$;

CREATE OR REPLACE FUNCTION indexer_v1.clip_index_statement(
    name text, live boolean DEFAULT false) RETURNS text
LANGUAGE sql STABLE
SET search_path FROM CURRENT
AS $$
    SELECT format('CREATE INDEX %s %I ON indexer_v1.clip USING hnsw (embedding %s) WITH (%s)',
                  CASE WHEN live THEN 'CONCURRENTLY' ELSE '' END, name,
                  (SELECT format('%I.%I', n.nspname, c.opcname)
                   FROM pg_opclass c JOIN pg_namespace n ON n.oid = c.opcnamespace
                   WHERE c.opcname = 'halfvec_cosine_ops' AND pg_opclass_is_visible(c.oid)
                     AND c.opcmethod = (SELECT m.oid FROM pg_am m WHERE m.amname = 'hnsw')),
                  array_to_string(indexer_v1.clip_index_options(), ', '))
$$;

-- Whether an older version built it: `immich-indexer reindex` builds it anew.
CREATE OR REPLACE FUNCTION indexer_v1.clip_index_is_outdated() RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT NOT coalesce(c.reloptions, '{}') @> indexer_v1.clip_index_options()
    FROM pg_class c WHERE c.oid = to_regclass('indexer_v1.clip_embedding_idx')
$$;

-- Makes it where it is missing; where there is nothing in it yet, also anew.
CREATE OR REPLACE FUNCTION indexer_v1.ensure_clip_index() RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path FROM CURRENT
AS $$
BEGIN
    IF indexer_v1.clip_index_is_outdated() AND NOT EXISTS (SELECT FROM indexer_v1.clip) THEN
        DROP INDEX indexer_v1.clip_embedding_idx;
    END IF;
    IF to_regclass('indexer_v1.clip_embedding_idx') IS NULL THEN
        EXECUTE indexer_v1.clip_index_statement('clip_embedding_idx');
    END IF;
END
$$;

-- What a rebuild holds from its first step to its last (pg/reindex.py), also while nobody is there
-- any more to whom its server process could answer.
CREATE OR REPLACE FUNCTION indexer_v1.reindex_lock() RETURNS bigint
LANGUAGE sql IMMUTABLE
AS $$ SELECT 46642449::bigint $$;

-- Ends a rebuild: the new index takes the old one's place. One that isn't whole, as its build was
-- stopped, or that another version built, is dropped: it would only make writing slower. Does
-- nothing where there is none, or somebody is still at it. Returns true where the new one is in place.
CREATE OR REPLACE FUNCTION indexer_v1.settle_clip_index() RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path FROM CURRENT
AS $$
DECLARE
    made regclass := to_regclass('indexer_v1.clip_embedding_new_idx');
BEGIN
    IF made IS NULL OR NOT pg_try_advisory_xact_lock(indexer_v1.reindex_lock()) THEN
        RETURN false;
    END IF;
    IF (SELECT i.indisvalid AND c.reloptions @> indexer_v1.clip_index_options()
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.oid = made) THEN
        DROP INDEX IF EXISTS indexer_v1.clip_embedding_idx;
        ALTER INDEX indexer_v1.clip_embedding_new_idx RENAME TO clip_embedding_idx;
        RETURN true;
    END IF;
    DROP INDEX indexer_v1.clip_embedding_new_idx;
    RETURN false;
END
$$;

-- The model that the embeddings in indexer_v1.clip are made with. Another model's embeddings can't
-- be compared, so they go, the column takes the new dimension, and every photo gets a job.
CREATE OR REPLACE FUNCTION indexer_v1.use_clip_model(name text, dim integer) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path FROM CURRENT
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('indexer_v1.use_clip_model'));
    IF (SELECT s.value FROM indexer_v1.setting s WHERE s.name = 'clip_model')
       = use_clip_model.name || '/' || dim THEN
        RETURN false;
    END IF;
    -- First the row that writers of embeddings share-lock: they wait here, or this waits for them.
    INSERT INTO indexer_v1.setting VALUES ('clip_model', use_clip_model.name || '/' || dim)
    ON CONFLICT ON CONSTRAINT setting_pkey DO UPDATE SET value = excluded.value;
    TRUNCATE indexer_v1.clip;
    DROP INDEX IF EXISTS indexer_v1.clip_embedding_idx;
    EXECUTE format('ALTER TABLE indexer_v1.clip ALTER COLUMN embedding TYPE halfvec(%s)', dim);
    PERFORM indexer_v1.ensure_clip_index();
    RETURN true;
END
$$;
