-- The tokenizer where zhparser is installed. The same functions as in the bigram tokenizer.
--
-- Texts are cut with zhparser's multi options (short words, pairs, important characters as well as
-- the longest words), queries without them: 朝阳 is found in 朝阳区, 花生 not in 鲜花生日.

-- All token types count: e (Latin, numbers), x (unknown and custom words) and u (numbers glued to
-- Chinese, punctuation, which punctuation_ignore drops) are not in the mapping that is often copied.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_ts_config c
                   WHERE c.cfgname = 'zh' AND c.cfgnamespace = 'indexer_v1'::regnamespace) THEN
        CREATE TEXT SEARCH CONFIGURATION indexer_v1.zh (PARSER = zhparser);
        EXECUTE (
            SELECT 'ALTER TEXT SEARCH CONFIGURATION indexer_v1.zh ADD MAPPING FOR '
                   || string_agg(quote_ident(alias), ', ') || ' WITH pg_catalog.simple'
            FROM ts_token_type('zhparser'));
    END IF;
END
$$;

-- Recorded with every row that was tokenized; change the number when the tokens change.
CREATE OR REPLACE FUNCTION indexer_v1.tokenizer() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT 'zhparser/1' $$;

CREATE OR REPLACE FUNCTION indexer_v1.to_tsvector(input text) RETURNS tsvector
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET zhparser.punctuation_ignore = on
SET zhparser.multi_short = on
SET zhparser.multi_duality = on
SET zhparser.multi_zmain = on
AS $$ SELECT pg_catalog.to_tsvector('indexer_v1.zh', indexer_v1.normalize(input)) $$;

-- One term of a query: all of its words. Never to_tsquery or websearch_to_tsquery: they ask for
-- the pieces of a Chinese word side by side, which the overlapping pieces in the index are not.
CREATE OR REPLACE FUNCTION indexer_v1.term_query(term text, quoted boolean) RETURNS tsquery
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning -- no notice about a query without words
SET zhparser.punctuation_ignore = on
SET zhparser.multi_short = off
SET zhparser.multi_duality = off
SET zhparser.multi_zmain = off
AS $$ SELECT plainto_tsquery('indexer_v1.zh', indexer_v1.normalize(term)) $$;
