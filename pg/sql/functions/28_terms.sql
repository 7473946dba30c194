-- What one term of a query looks for: alternatives, each of them phrases that must all be there.
--
-- A phrase is a list of items, from left to right: {"at": 0, "lexemes": ["发票"], "weights": "A",
-- "prefix": false}: any of these lexemes (see 25_tokens.sql), at this distance from the phrase's
-- beginning. level:
--     0  the letters of the term as they are, whole words
--     1  what OCR may have made of it, parts of longer strings, pieces apart; ranks below
--     2  letters that cut through words: only where nothing else is found, and only of terms that the
--        word list lacks. Where it knows the term (花生 in 鲜花|生日), the text was cut with that in
--        mind, and is right in 99.8 of 100 cases; an unknown name may have been cut apart

-- The Chinese part of a phrase: its pairs.
--   at       position of its first character in the phrase
--   opens    it must begin with a word
--   closes   it must end with one
--   alike    1: or with characters that can't be told apart, 2: or with any look-alike
CREATE OR REPLACE FUNCTION indexer_v1.pairs(
    run text, at integer, opens boolean, closes boolean, alike integer DEFAULT 0)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    size     integer := length(run);
    readings text[]; -- what may stand for a character
    before   text[];
    found    text[];
    items    jsonb := '[]';
BEGIN
    FOR i IN 1..size LOOP
        before := readings;
        readings := ARRAY[substr(run, i, 1)];
        IF alike > 0 AND size > 1 THEN
            readings := readings || indexer_v1.lookalikes(substr(run, i, 1), true);
        END IF;
        IF alike > 1 AND size > 1 THEN
            readings := readings || indexer_v1.lookalikes(substr(run, i, 1), false);
        END IF;
        IF size = 1 THEN
            RETURN jsonb_build_array(jsonb_build_object(
                'at', at, 'lexemes', readings, 'weights', '', 'prefix', true));
        END IF;
        CONTINUE WHEN i = 1;
        -- One of a pair's two characters is misread, hardly ever both.
        SELECT array_agg(DISTINCT pair) INTO found FROM (
            SELECT b || readings[1] FROM unnest(before) AS b
            UNION SELECT before[1] || r FROM unnest(readings) AS r
        ) AS pairs(pair);
        items := items || jsonb_build_array(jsonb_build_object(
            'at', at + i - 2, 'lexemes', found, 'prefix', false,
            'weights', CASE WHEN opens AND i = 2 AND closes AND i = size THEN 'A'
                            WHEN opens AND i = 2 THEN 'AB'
                            WHEN closes AND i = size THEN 'AC'
                            ELSE '' END));
    END LOOP;
    RETURN items;
END
$$;

-- A word of letters and digits, alone.
CREATE OR REPLACE FUNCTION indexer_v1.word_alternatives(unit text, quoted boolean)
RETURNS TABLE (level integer, phrases jsonb)
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    amount text := indexer_v1.amount(unit);
    plain  text := replace(replace(unit, ',', ''), '.', '');
    folded text := indexer_v1.fold(left(plain, 100));
    size   integer := length(plain);
BEGIN
    IF unit ~ '^[0-9.,]+$' THEN
        IF amount IS NOT NULL THEN
            RETURN QUERY SELECT 0, indexer_v1.word_phrase('#' || amount, '', false);
        END IF;
        -- Numbers of up to three digits are amounts; parts of longer ones count.
        IF unit ~ '^[0-9]+$' AND (size >= 4 OR amount IS NULL) THEN
            RETURN QUERY SELECT 0, indexer_v1.word_phrase(folded, 'A', false);
            IF size >= 4 THEN
                RETURN QUERY SELECT 1, indexer_v1.word_phrase(folded, 'AC', true);
            END IF;
            IF size >= 6 THEN
                RETURN QUERY SELECT 1, indexer_v1.word_phrase(folded, 'B', true);
            END IF;
        END IF;
        RETURN;
    END IF;
    RETURN QUERY SELECT 0, indexer_v1.word_phrase(folded, 'A', size >= 4 AND NOT quoted);
    IF unit ~ '^[^0-9]+s$' AND size >= 5 THEN -- drinks: also drink
        RETURN QUERY SELECT 0, indexer_v1.word_phrase(left(folded, -1), 'A', false);
    ELSIF unit ~ '^[^0-9]{3}$' THEN           -- cat: also cats
        RETURN QUERY SELECT 0, indexer_v1.word_phrase(indexer_v1.fold(unit || 's'), 'A', false);
    END IF;
    IF size >= 4 THEN -- parts of codes; ends of words
        RETURN QUERY SELECT 1, indexer_v1.word_phrase(folded, 'AC', true);
        RETURN QUERY SELECT 1, indexer_v1.word_phrase(folded, '', false);
    END IF;
    IF size >= 5 THEN -- parts of words
        RETURN QUERY SELECT 1, indexer_v1.word_phrase(folded, CASE WHEN unit ~ '[0-9]' THEN 'ABC' ELSE '' END, true);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION indexer_v1.word_phrase(lexeme text, weights text, prefix boolean)
RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT jsonb_build_array(jsonb_build_array(jsonb_build_object(
        'at', 0, 'lexemes', ARRAY[lexeme], 'weights', weights, 'prefix', prefix)))
$$;

-- The alternatives of one term: what stands between two blanks, or in quotation marks.
CREATE OR REPLACE FUNCTION indexer_v1.term_alternatives(term text, quoted boolean)
RETURNS TABLE (level integer, phrases jsonb)
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    input     text := btrim(left(indexer_v1.normalize(left(term, 500)), 500), E' \n\t');
    date      record;
    part      record;
    parts     integer;
    run       text;      -- of a term that is Chinese alone
    size      integer;
    whole     jsonb := '[]';    -- aligned with words
    loose     jsonb := '[]';    -- any letters, look-alikes
    phrase    jsonb := '[]';    -- of pieces
    pieces    jsonb := '[]';    -- phrases that may lie apart
    apart     boolean := false;
    items     jsonb;
    origin    integer;
    joined    text;
    rest      text;
BEGIN
    SELECT * INTO date FROM indexer_v1.date_at(input, '');
    IF date.size = length(input) THEN
        RETURN QUERY SELECT 0,
            indexer_v1.word_phrase(date.token, '', date.token LIKE '@____-__');
        IF input !~ '^[0-9]+$' THEN
            -- 5/10 may also be a fraction; any other way to write a date says nothing else
            IF input !~ '^[0-9]{1,2}/[0-9]{1,2}$' THEN
                RETURN;
            END IF;
        END IF;
    END IF;

    SELECT count(*), max(u.unit) INTO parts, run FROM indexer_v1.units(input) AS u;
    IF parts = 0 THEN
        RETURN;
    END IF;
    size := length(run);
    IF parts = 1 AND NOT indexer_v1.is_cjk(run) THEN
        RETURN QUERY SELECT * FROM indexer_v1.word_alternatives(run, quoted);
        RETURN;
    END IF;

    IF parts = 1 THEN
        RETURN QUERY SELECT 0,
            jsonb_build_array(indexer_v1.pairs(run, 0, NOT quoted, NOT quoted));
        IF size = 1 THEN
            RETURN;
        END IF;
        IF quoted THEN -- exactly this stands there, whatever OCR read
            IF size > 2 THEN
                RETURN QUERY SELECT 1, jsonb_build_array(indexer_v1.pairs(run, 0, false, false, 2));
            END IF;
            RETURN;
        END IF;
        IF size <= 3 THEN
            IF NOT indexer_v1.is_word(run) THEN
                RETURN QUERY SELECT 2, jsonb_build_array(indexer_v1.pairs(run, 0, false, false));
            END IF;
            FOR alike IN 1..2 LOOP
                SELECT jsonb_agg(jsonb_set(item, '{lexemes}', lexemes)) INTO items
                FROM jsonb_array_elements(indexer_v1.pairs(run, 0, true, true, alike)) AS item,
                     LATERAL (
                         SELECT coalesce(jsonb_agg(l), '[]') AS lexemes
                         FROM jsonb_array_elements_text(item -> 'lexemes') AS l
                         -- A single pair as it is has been looked for. Where misread letters are a
                         -- word of their own, that is what they say.
                         WHERE size > 2 OR l <> run AND (alike = 1 OR NOT indexer_v1.is_word(l))
                     ) AS kept;
                IF NOT jsonb_path_exists(items, '$[*].lexemes ? (@.size() == 0)') THEN
                    RETURN QUERY SELECT 1, jsonb_build_array(items);
                END IF;
            END LOOP;
            RETURN;
        END IF;
        RETURN QUERY SELECT 1, jsonb_build_array(indexer_v1.pairs(run, 0, false, false, 2));
        IF size > 16 THEN
            RETURN;
        END IF;
        -- One character wrong, one too few, one too many
        FOR gap IN 1..size LOOP
            IF size >= 6 THEN
                RETURN QUERY SELECT 1, indexer_v1.around(run, gap - 1, gap + 1, gap);
            END IF;
            IF size >= 5 AND gap BETWEEN 2 AND size - 1 THEN
                RETURN QUERY SELECT 1, indexer_v1.around(run, gap - 1, gap + 1, gap - 1);
                RETURN QUERY SELECT 1, indexer_v1.around(run, gap, gap + 1, gap + 1);
            END IF;
        END LOOP;
        RETURN;
    END IF;

    -- Chinese and other scripts together, or signs within: one after the other, in this order.
    SELECT u.pos INTO origin FROM indexer_v1.units(input) AS u ORDER BY u.n LIMIT 1;
    FOR part IN
        SELECT u.*, lag(u.cjk) OVER (ORDER BY u.n) AS after_cjk,
               u.n = count(*) OVER () AS last
        FROM indexer_v1.units(input) AS u ORDER BY u.n LIMIT 40
    LOOP
        IF part.cjk THEN
            items := indexer_v1.pairs(part.unit, part.pos - origin, part.n = 1 AND NOT quoted,
                                      part.last AND NOT quoted);
            whole := whole || items;
            items := indexer_v1.pairs(part.unit, part.pos - origin, part.n = 1 AND NOT quoted,
                                      part.last AND NOT quoted, 1);
        ELSE
            items := jsonb_build_array(jsonb_build_object(
                'at', part.pos - origin, 'weights', '',
                'lexemes', array_remove(ARRAY[
                    CASE WHEN part.unit !~ '[0-9][.,]' THEN indexer_v1.fold(part.unit) END,
                    '#' || indexer_v1.amount(part.unit)], NULL),
                'prefix', part.last AND part.unit ~ '[^0-9.,]' AND length(part.unit) >= 3
                          AND NOT quoted));
            whole := whole || items;
        END IF;
        -- WiFi密码: a word of three letters and more stands for itself
        IF NOT quoted AND part.n > 1 AND part.cjk <> part.after_cjk
           AND (part.unit ~ '^[^0-9㐀-鿿]{3,}' OR rest ~ '^[^0-9㐀-鿿]{3,}') THEN
            pieces := pieces || jsonb_build_array(phrase);
            phrase := '[]';
            apart := true;
        END IF;
        phrase := phrase || items;
        loose := loose || items;
        rest := part.unit;
    END LOOP;
    RETURN QUERY SELECT 0, jsonb_build_array(whole);
    RETURN QUERY SELECT 1, jsonb_build_array(loose);
    IF whole @? '$[*] ? (@.weights != "")' THEN
        SELECT jsonb_agg(jsonb_set(item, '{weights}', '""')) INTO items
        FROM jsonb_array_elements(whole) AS item;
        RETURN QUERY SELECT 2, jsonb_build_array(items);
    END IF;
    IF apart THEN
        RETURN QUERY SELECT 1, pieces || jsonb_build_array(phrase);
    END IF;
    -- Wi-Fi, "thank you": also in one word
    SELECT string_agg(replace(replace(u.unit, ',', ''), '.', ''), '' ORDER BY u.n) INTO joined
    FROM indexer_v1.units(input) AS u HAVING NOT bool_or(u.cjk);
    IF length(joined) >= 4 AND date.size IS NULL THEN
        RETURN QUERY SELECT CASE WHEN quoted THEN 1 ELSE 0 END, indexer_v1.word_phrase(
            indexer_v1.fold(joined), CASE WHEN length(joined) < 6 THEN 'A' ELSE '' END, true);
    END IF;
END
$$;

-- A run of Chinese without what lies between two of its characters: the first `front` of them, and
-- those from number `back` on, whose first stands at position `at`.
CREATE OR REPLACE FUNCTION indexer_v1.around(run text, front integer, back integer, at integer)
RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT jsonb_build_array(
        indexer_v1.pairs(left(run, front), 0, false, false)
        || indexer_v1.pairs(substr(run, back), at, false, false))
$$;

-- Alternatives as a tsquery.
CREATE OR REPLACE FUNCTION indexer_v1.alternative_query(phrases jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN (
    SELECT '(' || string_agg(said, ' & ') || ')'
    FROM (
        SELECT string_agg(coalesce('<' || at - before || '>', '') || said, '' ORDER BY at) AS said
        FROM (
            SELECT phrase.n, (item ->> 'at')::int AS at,
                   lag((item ->> 'at')::int) OVER (PARTITION BY phrase.n ORDER BY i) AS before,
                   (SELECT '(' || string_agg(
                        quote_literal(lexeme) || CASE WHEN marks <> '' THEN ':' || marks ELSE '' END,
                        '|') || ')'
                    FROM jsonb_array_elements_text(item -> 'lexemes') AS lexeme,
                         concat(CASE WHEN (item ->> 'prefix')::boolean THEN '*' END,
                                item ->> 'weights') AS marks) AS said
            FROM jsonb_array_elements(phrases) WITH ORDINALITY AS phrase(items, n),
                 jsonb_array_elements(phrase.items) WITH ORDINALITY AS listed(item, i)
        ) AS items
        GROUP BY n
    ) AS phrases);
END
$$;

DROP FUNCTION IF EXISTS indexer_v1.term_query(text, boolean);

-- One term of a query by level: 0, 0 and 1, 1 alone, all.
CREATE OR REPLACE FUNCTION indexer_v1.term_query(
    term text, quoted boolean, OUT sure tsquery, OUT wide tsquery, OUT wider tsquery,
    OUT loose tsquery)
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    SELECT coalesce(string_agg(DISTINCT said, '|') FILTER (WHERE a.level = 0), '')::tsquery,
           coalesce(string_agg(DISTINCT said, '|') FILTER (WHERE a.level <= 1), '')::tsquery,
           coalesce(string_agg(DISTINCT said, '|') FILTER (WHERE a.level = 1), '')::tsquery,
           coalesce(string_agg(DISTINCT said, '|'), '')::tsquery
    INTO sure, wide, wider, loose
    FROM indexer_v1.term_alternatives(term, quoted) AS a,
         indexer_v1.alternative_query(a.phrases) AS said;
END
$$;
