-- The tables of layout v1.
-- Foreign keys to public.asset make a deleted photo take its jobs and results along.

CREATE TABLE indexer_v1.setting (
    name  text PRIMARY KEY,
    value text NOT NULL
);

-- The queue: one row per (asset, task) that is waiting, running or dead. Done means gone.
CREATE TABLE indexer_v1.job (
    asset_id    uuid        NOT NULL REFERENCES public.asset (id) ON DELETE CASCADE,
    task        text        NOT NULL CHECK (task IN ('ocr', 'clip')),
    revision    bigint      NOT NULL DEFAULT 1,     -- moves with every event for the asset
    priority    smallint    NOT NULL DEFAULT 0,     -- higher first
    force       boolean     NOT NULL DEFAULT false, -- infer even if the picture is unchanged
    attempts    smallint    NOT NULL DEFAULT 0,     -- counted when claimed, so a crash counts
    created_at  timestamptz NOT NULL DEFAULT now(),
    next_at     timestamptz NOT NULL DEFAULT now(), -- not before
    lease_until timestamptz,
    lease_token uuid,
    dead_at     timestamptz,
    last_error  text,
    PRIMARY KEY (asset_id, task)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);

CREATE INDEX job_ready_idx ON indexer_v1.job (priority DESC, next_at, asset_id) WHERE dead_at IS NULL;
CREATE INDEX job_lease_idx ON indexer_v1.job (lease_token) WHERE lease_token IS NOT NULL;

-- What people write: INSERT INTO indexer_v1.reprocess (asset_id, task) VALUES (…, 'ocr');
-- No foreign key: a request about a photo that is gone is answered, not lost.
CREATE TABLE indexer_v1.reprocess (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    asset_id     uuid        NOT NULL,
    task         text        NOT NULL DEFAULT 'all' CHECK (task IN ('ocr', 'clip', 'all')),
    requested_at timestamptz NOT NULL DEFAULT now(),
    status       text        NOT NULL DEFAULT 'waiting', -- waiting, done, failed: why
    remaining    text[]      NOT NULL DEFAULT '{}',      -- tasks still to end
    finished_at  timestamptz
);

CREATE INDEX reprocess_open_idx ON indexer_v1.reprocess (asset_id) WHERE finished_at IS NULL;

CREATE TABLE indexer_v1.ocr (
    asset_id     uuid        PRIMARY KEY REFERENCES public.asset (id) ON DELETE CASCADE,
    text         text        NOT NULL, -- the lines, joined by newlines; '' where there are none
    lines        jsonb       NOT NULL, -- [{text, box: [x1,y1,…,y4] 0..1, box_score, text_score}]
    tsv          tsvector    NOT NULL, -- written by indexer_v1.to_tsvector(text)
    tokenizer    text        NOT NULL, -- indexer_v1.tokenizer() at that time
    model        text        NOT NULL,
    content_hash bytea       NOT NULL CHECK (length(content_hash) = 32), -- SHA-256 of the preview
    updated_at   timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX ocr_tsv_idx ON indexer_v1.ocr USING gin (tsv);

-- halfvec: half the size of vector, and no difference to be seen in the ranking of unit vectors.
-- The dimension is set to the served model's by indexer_v1.use_clip_model().
CREATE TABLE indexer_v1.clip (
    asset_id     uuid         PRIMARY KEY REFERENCES public.asset (id) ON DELETE CASCADE,
    embedding    halfvec(512) NOT NULL,
    model        text         NOT NULL,
    content_hash bytea        NOT NULL CHECK (length(content_hash) = 32),
    updated_at   timestamptz  NOT NULL DEFAULT now()
);

CREATE INDEX clip_embedding_idx ON indexer_v1.clip USING hnsw (embedding halfvec_cosine_ops)
    WITH (m = 16, ef_construction = 100);

CREATE TABLE indexer_v1.worker (
    id         uuid        PRIMARY KEY,
    host       text        NOT NULL,
    pid        integer     NOT NULL,
    device     text        NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now(),
    done       bigint      NOT NULL DEFAULT 0,
    failed     bigint      NOT NULL DEFAULT 0,
    rate       real        NOT NULL DEFAULT 0, -- photos a second, over the last minute
    note       text        NOT NULL DEFAULT '' -- what it can't do, and why
);
