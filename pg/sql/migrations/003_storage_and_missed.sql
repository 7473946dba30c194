-- Ranking reads the tsvectors of hundreds of matches: they stay in the row, uncompressed while the
-- row is small, and the text and its lines move out instead. Rows change when they are written
-- again, as `immich-indexer retokenize` does in chunks; searches are right before and after.
ALTER TABLE indexer_v1.ocr ALTER COLUMN tsv SET STORAGE MAIN;

-- Photos whose event couldn't be queued at once, because somebody held their job. Only ever appended
-- to and swept (take_missed): no key and no foreign key, so that nobody here waits for anybody.
CREATE TABLE indexer_v1.missed (
    asset_id  uuid        NOT NULL,
    missed_at timestamptz NOT NULL DEFAULT now()
);
