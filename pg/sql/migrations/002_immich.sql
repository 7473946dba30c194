-- What living beside an Immich needs: results found again by the picture, what is to be written
-- into Immich's own tables, and tags that ask for a photo to be redone.

-- The file that the text was read from: a file that changes at the same path is no event.
ALTER TABLE indexer_v1.ocr ADD COLUMN file_size bigint, ADD COLUMN file_modified timestamptz;

-- The gateway and the workers look results up by the picture, whoever computed them.
CREATE INDEX ocr_content_hash_idx ON indexer_v1.ocr (content_hash);
CREATE INDEX clip_content_hash_idx ON indexer_v1.clip (content_hash);

-- Answers that the gateway gave and no worker has taken over yet. Purged after a day.
CREATE TABLE indexer_v1.inference (
    content_hash bytea       NOT NULL CHECK (length(content_hash) = 32),
    model        text        NOT NULL, -- with the options that change the result
    lines        jsonb,                -- as in indexer_v1.ocr
    embedding    real[],
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (content_hash, model),
    CHECK ((lines IS NULL) <> (embedding IS NULL))
);

CREATE INDEX inference_created_at_idx ON indexer_v1.inference (created_at);

-- To be written into Immich's tables, in transactions of its own: ocr (asset_ocr and ocr_search),
-- clip (smart_search), search_text (ocr_search alone, from what asset_ocr has).
CREATE TABLE indexer_v1.write_back (
    asset_id uuid     NOT NULL REFERENCES public.asset (id) ON DELETE CASCADE,
    what     text     NOT NULL CHECK (what IN ('ocr', 'clip', 'search_text')),
    attempts smallint NOT NULL DEFAULT 0,
    PRIMARY KEY (asset_id, what)
);

-- The tag that asked for it; NULL once it is taken off, or where none did.
ALTER TABLE indexer_v1.reprocess ADD COLUMN tag_id uuid;

CREATE INDEX reprocess_tag_idx ON indexer_v1.reprocess (tag_id) WHERE tag_id IS NOT NULL;
