-- The tokenizer where zhparser is installed: it finds the words.
-- Two functions have these names in both tokenizers; everything else is the same with either.

-- Recorded with every row that was tokenized; change the number when the tokens change.
CREATE OR REPLACE FUNCTION indexer_v1.tokenizer() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT 'zhparser/4' $$;

-- The words of Chinese text, in order. Blanks, which end a word, aren't returned.
CREATE OR REPLACE FUNCTION indexer_v1.words(runs text) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    options CONSTANT text[] := '{punctuation_ignore,multi_short,multi_duality,multi_zmain,multi_zall,'
        'seg_with_duality}';
    found text[];
BEGIN
    -- Off, unless somebody has switched one on for the whole database. Not SET zhparser.… above:
    -- that takes a superuser, as long as zhparser isn't loaded, and so would restoring a dump of it.
    IF replace(concat(current_setting('zhparser.punctuation_ignore', true),
                      current_setting('zhparser.multi_short', true),
                      current_setting('zhparser.multi_duality', true),
                      current_setting('zhparser.multi_zmain', true),
                      current_setting('zhparser.multi_zall', true),
                      current_setting('zhparser.seg_with_duality', true)), 'off', '') <> '' THEN
        PERFORM set_config('zhparser.' || option, 'off', true) FROM unnest(options) AS option;
    END IF;
    SELECT array_agg(token ORDER BY n) INTO found
    FROM ts_parse((SELECT p.oid FROM pg_ts_parser p WHERE p.prsname = 'zhparser'), runs)
         WITH ORDINALITY AS parsed(tokid, token, n)
    WHERE token <> ' ';
    -- Characters that zhparser drops would shift every position after them.
    IF array_to_string(found, '') IS DISTINCT FROM replace(runs, ' ', '') THEN
        RETURN indexer_v1.cut(runs);
    END IF;
    RETURN found;
END
$$;

-- Names that its dictionary lacks. That takes the rights of a superuser; without them, words that
-- it doesn't know fall into characters, and are found all the same. Seen by new connections.
-- They are this database's words: a configuration of somebody else's in it that doesn't map type x
-- (zhparser's for any word added) doesn't index them.
DO $$
BEGIN
    INSERT INTO zhparser.zhprs_custom_word (word)
    SELECT w FROM unnest(indexer_v1.own_words()) AS w
    WHERE NOT EXISTS (SELECT FROM zhparser.zhprs_custom_word c WHERE c.word = w);
    EXECUTE format('SELECT %I.sync_zhprs_custom_word()', (
        SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
        WHERE e.extname = 'zhparser'));
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'immich-indexer: names that zhparser lacks were not added to it: %', SQLERRM;
END
$$;
