-- The tokenizer where zhparser isn't installed: words are found with our own list (15_words.sql).
-- Two functions have these names in both tokenizers; everything else is the same with either.

-- Recorded with every row that was tokenized; change the number when the tokens change.
CREATE OR REPLACE FUNCTION indexer_v1.tokenizer() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT 'bigram/4' $$;

-- The words of Chinese text, in order. Blanks, which end a word, aren't returned.
CREATE OR REPLACE FUNCTION indexer_v1.words(runs text) RETURNS text[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$ SELECT indexer_v1.cut(runs) $$;
