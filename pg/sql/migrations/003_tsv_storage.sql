-- Ranking reads the tsvectors of hundreds of matches: they stay in the row, uncompressed while the
-- row is small, and the text and its lines move out instead. Rows change when they are written
-- again, as `immich-indexer retokenize` does in chunks; searches are right before and after.
ALTER TABLE indexer_v1.ocr ALTER COLUMN tsv SET STORAGE MAIN;
