-- Photos whose event couldn't be queued at once, because somebody held their job. Only ever appended
-- to and swept (take_missed): no key and no foreign key, so that nobody here waits for anybody.
CREATE TABLE indexer_v1.missed (
    asset_id  uuid        NOT NULL,
    missed_at timestamptz NOT NULL DEFAULT now()
);
