-- The tokenizer where zhparser isn't installed: CJK text as single characters and pairs, other
-- text as whole words. Three functions have this name in both tokenizers: tokenizer(),
-- to_tsvector(text) and term_query(text, boolean).
--
-- Positions: every CJK character and every word takes one. A character and the pair that begins
-- with it share a position, so a phrase of pairs is a substring.

-- Recorded with every row that was tokenized; change the number when the tokens change.
CREATE OR REPLACE FUNCTION indexer_v1.tokenizer() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT 'bigram/1' $$;

-- The tokens of normalised text, in order: CJK characters one by one, anything else in runs.
-- new_line: a line break stands between this token and the one before.
CREATE OR REPLACE FUNCTION indexer_v1.tokens(normalised text)
RETURNS TABLE (pos bigint, token text, is_cjk boolean, new_line boolean)
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT n, m[2], m[2] ~ '[㐀-䶿一-鿿豈-﫿぀-ヿ가-힯𠀀-𲎯]', strpos(m[1], E'\n') > 0
    FROM regexp_matches(
        -- ASCII and Latin-1 signs, general punctuation, symbols, CJK punctuation, emoji
        regexp_replace(normalised,
            '[\x01-\x09\x0b-\x2f\x3a-\x40\x5b-\x60\x7b-\xbf\u2000-\u2bff\u3000-\u3020\u3030\ufe00-\ufe4f\U0001f000-\U0001faff]+',
            ' ', 'g'),
        '([ \n]*)([㐀-䶿一-鿿豈-﫿぀-ヿ가-힯𠀀-𲎯]|[^ \n㐀-䶿一-鿿豈-﫿぀-ヿ가-힯𠀀-𲎯]+)', 'g')
        WITH ORDINALITY AS r(m, n)
$$;

CREATE OR REPLACE FUNCTION indexer_v1.to_tsvector(input text) RETURNS tsvector
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH neighbours AS MATERIALIZED (
        SELECT pos, left(token, 500) AS token, is_cjk, lead(token) OVER w AS following,
               lead(is_cjk AND NOT new_line) OVER w AS joins
        FROM indexer_v1.tokens(indexer_v1.normalize(input))
        WINDOW w AS (ORDER BY pos)
    )
    SELECT coalesce(
        string_agg(quote_literal(lexeme) || ':' || least(pos, 16383), ' ')::tsvector, ''::tsvector)
    FROM (
        SELECT pos, token AS lexeme FROM neighbours
        UNION ALL
        -- No pair across a line break: the end of one line and the start of another make no word.
        SELECT pos, token || following FROM neighbours WHERE is_cjk AND joins
    ) AS lexemes
$$;

-- One term of a query: its tokens next to each other, in order. Words of three letters or more
-- also match as beginnings, unless the person put the term in quotation marks.
CREATE OR REPLACE FUNCTION indexer_v1.term_query(term text, quoted boolean) RETURNS tsquery
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning -- no notice about a query without words
AS $$
    WITH neighbours AS (
        SELECT pos, left(token, 500) AS token, is_cjk,
               lead(token) OVER w AS following, lead(is_cjk) OVER w AS cjk_follows,
               lag(is_cjk) OVER w AS after_cjk
        FROM indexer_v1.tokens(replace(indexer_v1.normalize(term), E'\n', ' '))
        WINDOW w AS (ORDER BY pos)
    ), lexemes AS (
        SELECT pos,
               CASE WHEN is_cjk AND cjk_follows THEN quote_literal(token || following)
                    WHEN NOT is_cjk AND NOT quoted AND length(token) >= 3
                        THEN quote_literal(token) || ':*'
                    ELSE quote_literal(token)
               END AS lexeme
        FROM neighbours
        -- The last character of a run is already in the pair before it.
        WHERE NOT (is_cjk AND coalesce(after_cjk, false) AND NOT coalesce(cjk_follows, false))
    ), spaced AS (
        SELECT pos, lexeme, pos - lag(pos) OVER (ORDER BY pos) AS distance FROM lexemes
    )
    SELECT coalesce(
        string_agg(coalesce('<' || distance || '>', '') || lexeme, ' ' ORDER BY pos)::tsquery,
        ''::tsquery)
    FROM spaced
$$;
