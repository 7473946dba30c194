-- What is indexed of a text, and at which position. The tokenizer (20_tokenizer_*.sql) says where
-- Chinese words begin and end; all else is here.
--
-- Chinese, kana, hangul: every pair of characters; a character that no other follows alone. A pair
--     stands for its first character's position, so a phrase of pairs is a substring. Its weight
--     says how it lies among the words (花生 is B in 花|生日, A in 花生|豆花):
--         A  begins and ends with a word         B  begins with a word, ends inside of one
--         C  begins inside of one, ends with it  D  neither, or there is something in between
-- Words in other scripts: the word (A), what it is together with its neighbours (A: Wi-Fi → wifi,
--     B: "Starb ucks" → starbucks), and its ends from the second letter on (C of a word with
--     digits, D of one without): burger in cheeseburger, RE16 in 8RE1688. From four letters on
--     o, i, l are written as 0, 1, 1: OCR takes them for each other.
-- Numbers: #88 for 88, 88.00 and ¥88, #1286.4 for 1,286.40; not the digits in a code.
-- Dates: @2024-05-01 and @-05-01 (of any year), however they are written; @2024-05 for a month.

-- Letters, in regular expressions.
CREATE OR REPLACE FUNCTION indexer_v1.is_cjk(unit text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT unit ~ '^[㐀-䶿一-鿿豈-﫿぀-ヿ가-힯𠀀-𲎯々〇]' $$;

-- Normalised text in units: runs of Chinese, numbers (1,286.40), words of other letters and
-- digits. gap: the signs before it; at: where it begins, counted in characters from 0; pos: its
-- position, where every Chinese character counts one and every other unit one.
CREATE OR REPLACE FUNCTION indexer_v1.units(normalised text)
RETURNS TABLE (n bigint, gap text, unit text, cjk boolean, at integer, pos integer)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT s.n, s.gap, s.unit, s.cjk, (s.ends - length(s.unit))::integer,
           (1 + s.positions - CASE WHEN s.cjk THEN length(s.unit) ELSE 1 END)::integer
    FROM (
        SELECT r.n, r.m[1] AS gap, r.m[2] AS unit, c.cjk,
               sum(length(r.m[1]) + length(r.m[2])) OVER w AS ends,
               sum(CASE WHEN c.cjk THEN length(r.m[2]) ELSE 1 END) OVER w AS positions
        FROM regexp_matches(
            -- In 2024.5.1 and 192.168.1.10 there are no decimals. (Lookbehind takes twice the time.)
            CASE WHEN normalised ~ '[0-9]\.[0-9]+\.[0-9]'
                 THEN regexp_replace(
                     regexp_replace(normalised, '([0-9])\.(?=[0-9]+\.[0-9])', '\1·', 'g'),
                     '·([0-9]+)\.(?=[0-9])', '·\1·', 'g')
                 ELSE normalised END,
            -- ASCII and Latin-1 signs, general punctuation, symbols, CJK punctuation, emoji
            '([\x01-\x2f\x3a-\x40\x5b-\x60\x7b-\xbf\xd7\xf7\u2000-\u2bff\u3000-\u3004\u3008-\u3020\u3030\ufe00-\ufe4f\U0001f000-\U0001faff]*)'
            || '([㐀-䶿一-鿿豈-﫿぀-ヿ가-힯𠀀-𲎯々〇]+'
            || '|[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?(?!\.?[0-9])'
            || '|[0-9]+\.[0-9]+(?!\.?[0-9])'
            || '|[^\x01-\x2f\x3a-\x40\x5b-\x60\x7b-\xbf\xd7\xf7\u2000-\u2bff\u3000-\u3004\u3008-\u3020\u3030\ufe00-\ufe4f\U0001f000-\U0001faff㐀-䶿一-鿿豈-﫿぀-ヿ가-힯𠀀-𲎯々〇]+)',
            'g') WITH ORDINALITY AS r(m, n),
            LATERAL (SELECT indexer_v1.is_cjk(r.m[2]) AS cjk OFFSET 0) AS c
        WINDOW w AS (ORDER BY r.n)
    ) AS s
$$;

-- One form for letters and digits that OCR confuses. Words of these letters alone stay what they
-- are; short ones, where 1O is far from LO, change only an o beside digits.
CREATE OR REPLACE FUNCTION indexer_v1.fold(word text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN length(word) >= 4 AND word !~ '^[oil]+$' THEN translate(word, 'oil', '011')
                WHEN word ~ '[0-9]' THEN translate(word, 'o', '0')
                ELSE word END
$$;

-- 1,286.40 → 1286.4; NULL where it is a code rather than an amount (007, 88re6, forty digits).
CREATE OR REPLACE FUNCTION indexer_v1.amount(unit text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN left(unit, 1) BETWEEN '0' AND '9' AND length(unit) <= 30 AND unit ~ '^[0-9][0-9,]*(?:\.[0-9]+)?[^0-9]*$'
                 AND unit !~ '^0[0-9]'
           THEN regexp_replace(replace(substring(unit from '^[0-9,.]+'), ',', ''),
                               '(\.[0-9]*[1-9])0+$|\.0*$', '\1') END
$$;

-- The date that a text begins with, as @2024-05-01, @2024-05 (a month) or @-05-01 (a day of any
-- year), and how many characters say it; NULL where there is none. before: what precedes the text.
CREATE OR REPLACE FUNCTION indexer_v1.date_at(
    input text, before text, OUT token text, OUT size integer)
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    months CONSTANT text :=
        '(jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|'
        'sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)';
    digits text := translate(input, 'oil', '011'); -- for what is digits anyway
    m      text[];
    ymd    text[]; -- year, month, day
BEGIN
    IF digits ~ '^[12][0-9]{3}' THEN
        m := coalesce(
            regexp_match(digits,
                '^(((?:19|20)\d\d) ?[-./年] ?(\d{1,2})(?!\d) ?[-./月] ?(\d{1,2})(?!\d)(?: ?[日号])?)'),
            regexp_match(digits, '^(((?:19|20)\d\d)(\d\d)(\d\d))(?![0-9a-z])'),
            regexp_match(digits, '^(((?:19|20)\d\d) ?年 ?(\d{1,2})(?!\d) ?月)()'),
            regexp_match(digits, '^(((?:19|20)\d\d)[-/.](\d{1,2}))(?![-/.]?\d)()'));
        ymd := m[2:4];
    ELSIF input ~ '^[0-9]' THEN
        m := regexp_match(digits, '^((\d{2,3}) ?年 ?(\d{1,2})(?!\d) ?月(?: ?(\d{1,2})(?!\d) ?日?)?)');
        IF m IS NOT NULL THEN
            -- The calendar of Taiwan counts from 1911.
            IF right(before, 2) <> '民国' THEN
                RETURN;
            END IF;
            ymd := ARRAY[(m[2]::int + 1911)::text, m[3], m[4]];
        END IF;
        IF m IS NULL AND digits ~ '^\d{1,2} ?月' THEN
            m := regexp_match(digits, '^((\d{1,2}) ?月 ?(\d{1,2})(?!\d)(?: ?[日号])?)');
            ymd := ARRAY['', m[2], m[3]];
        END IF;
        IF m IS NULL AND digits ~ '^\d{1,2}[-./]' THEN
            m := regexp_match(digits, '^((\d{1,2})([-./])(\d{1,2})\3((?:19|20)\d\d))(?!\d)');
            IF m IS NOT NULL THEN -- 12/25/2023, or 25.12.2023; 05/06/2024 is taken for May
                ymd := CASE WHEN m[2]::int > 12 THEN ARRAY[m[5], m[4], m[2]]
                            ELSE ARRAY[m[5], m[2], m[4]] END;
            ELSE
                m := regexp_match(digits, '^((\d{1,2})/((?:19|20)\d\d))(?![\d/])');
                IF before ~ '[\d/.-]$' THEN
                    m := NULL; -- the end of another date
                ELSIF m IS NOT NULL THEN
                    ymd := ARRAY[m[3], m[2], ''];
                ELSE
                    m := regexp_match(input, '^((\d{1,2})/(\d{1,2}))(?![\da-z/.])');
                    ymd := ARRAY['', m[2], m[3]];
                END IF;
            END IF;
        END IF;
        IF m IS NULL AND input ~ '^\d{1,2}(?:st|nd|rd|th)?[ -]?[a-z]' THEN
            m := regexp_match(input, '^((\d{1,2})(?:st|nd|rd|th)?[ -]?' || months
                              || '(?![a-z])(?:\.?,?[ -]?((?:19|20)?\d\d)(?![\d:]))?)');
            ymd := ARRAY[CASE WHEN length(m[4]) = 2 THEN '20' || m[4] ELSE coalesce(m[4], '') END,
                         m[3], m[2]];
        END IF;
    ELSIF input ~ ('^' || months || '(?![a-z])') THEN
        m := regexp_match(input, '^(' || months
                          || '\.? ?(\d{1,2})(?:st|nd|rd|th)?(?![\d:])(?:,? ?((?:19|20)\d\d)(?!\d))?)');
        IF m IS NOT NULL THEN
            ymd := ARRAY[coalesce(m[4], ''), m[2], m[3]];
        ELSIF before !~ '\d[ -]?$' THEN
            m := regexp_match(input, '^(' || months || '\.? ?((?:19|20)\d\d))(?!\d)');
            ymd := ARRAY[m[3], m[2], ''];
        END IF;
    ELSIF input ~ '^[〇零一二三四五六七八九十]' THEN
        m := regexp_match(input,
            '^((?:([〇零一二三四五六七八九]{4})年)?([一二三四五六七八九十]{1,2})月'
            '(?:([一二三四五六七八九十]{1,3})[日号])?)');
        ymd := ARRAY[coalesce(translate(m[2], '〇零一二三四五六七八九', '00123456789'), ''),
                     indexer_v1.chinese_number(m[3]), coalesce(indexer_v1.chinese_number(m[4]), '')];
    END IF;
    IF m IS NULL OR ymd[1] = '' AND ymd[3] = '' THEN
        RETURN;
    END IF;
    IF ymd[2] !~ '^\d' THEN
        ymd[2] := (strpos('janfebmaraprmayjunjulaugsepoctnovdec', left(ymd[2], 3)) + 2) / 3;
    END IF;
    IF ymd[2]::int BETWEEN 1 AND 12 AND (ymd[3] = '' OR ymd[3]::int BETWEEN 1 AND 31) THEN
        size := length(m[1]);
        token := '@' || ymd[1] || '-' || lpad(ymd[2], 2, '0')
                 || CASE WHEN ymd[3] <> '' THEN '-' || lpad(ymd[3], 2, '0') ELSE '' END;
    END IF;
END
$$;

-- 一 … 三十一 as digits.
CREATE OR REPLACE FUNCTION indexer_v1.chinese_number(number text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
    SELECT CASE WHEN number ~ '^[一二三四五六七八九]?十[一二三四五六七八九]?$' THEN
               coalesce(nullif(translate(split_part(number, '十', 1), d, '123456789'), ''), '1')
               || coalesce(nullif(translate(split_part(number, '十', 2), d, '123456789'), ''), '0')
           ELSE nullif(translate(number, d || '十', '123456789'), '') END
    FROM (VALUES ('一二三四五六七八九')) AS digits(d)
$$;

-- For every character of these words: 1 if a word begins with it, 2 if one ends with it, 3 if both.
-- The beginning of a longer word counts as one (朝阳 in 朝阳区), its end where that is a word that is
-- not much rarer than the beginning (车站 in 火车站, but not 动车 in 电动车), and so do its parts
-- (长江 and 大桥 in 长江大桥).
CREATE OR REPLACE FUNCTION indexer_v1.edges(words text[]) RETURNS integer[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    found integer[] := '{}';
    pairs integer[]; -- what every pair of characters costs, in the longer words
    first integer := 1;
    size  integer;
    part  integer[];
    word  text;
BEGIN
    SELECT (indexer_v1.word_costs(string_to_array(string_agg(w, '' ORDER BY n), NULL))).two INTO pairs
    FROM unnest(words) WITH ORDINALITY AS listed(w, n) WHERE length(w) > 2;
    FOREACH word IN ARRAY words LOOP
        size := length(word);
        IF size = 1 THEN
            found := found || 3;
        ELSIF size = 2 THEN
            found := found || '{1,2}'::integer[];
        ELSE
            IF size = 3 THEN
                -- Half a decade: three times as rare. A pair that isn't known costs NULL.
                found := found || CASE WHEN pairs[first + 1] < coalesce(pairs[first] + 6, 9999)
                                       THEN '{1,3,2}'::integer[] ELSE '{1,2,2}' END;
            ELSIF size = 4 AND pairs[first] + pairs[first + 2] IS NOT NULL THEN
                found := found || '{1,2,1,2}'::integer[]; -- 中山|东路, rather than 中|山东|路
            ELSE
                part := indexer_v1.edges(indexer_v1.cut(word, 3));
                part[2] := part[2] | 2;
                found := found || part;
            END IF;
            first := first + size;
        END IF;
    END LOOP;
    RETURN found;
END
$$;

-- The tokens of normalised text. starts, ends: which of its characters make the token, [ , ) from 0.
CREATE OR REPLACE FUNCTION indexer_v1.tokens(normalised text)
RETURNS TABLE (lexeme text, pos integer, weight text, starts integer, ends integer)
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN QUERY
    WITH unit AS MATERIALIZED (
        SELECT u.*, lag(u.cjk) OVER w AS after_cjk, lag(u.unit) OVER w AS previous,
               lead(u.gap) OVER w AS next_gap, lead(u.unit) OVER w AS following
        FROM indexer_v1.units(normalised) AS u
        WINDOW w AS (ORDER BY u.n)
    ), run AS MATERIALIZED (
        SELECT u.*,
               -- 发 票 代 码: single characters with a blank between them are one word
               u.after_cjk AND u.gap = ' ' AND length(u.unit) = 1 AND length(u.previous) = 1
                   AS joined
        FROM unit u WHERE u.cjk
    ), cut AS MATERIALIZED (
        SELECT indexer_v1.edges(indexer_v1.words(
                   string_agg(CASE WHEN r.joined THEN '' ELSE ' ' END || r.unit, '' ORDER BY r.n))
               ) AS edges
        FROM run r
    ), pair AS (
        SELECT c.one, c.pos, c.at, lead(c.one) OVER w AS two, lead(c.at) OVER w AS two_at,
               lead(c.pos) OVER w = c.pos + 1 AS touches, lead(c.fresh) OVER w AS broken,
               cut.edges[c.number] AS edge, cut.edges[c.number + 1] AS two_edge
        FROM (
            SELECT one, r.pos + i::int - 1 AS pos, r.at + i::int - 1 AS at,
                   i = 1 AND r.joined IS NOT TRUE AS fresh,
                   row_number() OVER (ORDER BY r.n, i)::int AS number
            FROM run r, unnest(string_to_array(r.unit, NULL)) WITH ORDINALITY AS chars(one, i)
        ) AS c, cut
        WINDOW w AS (ORDER BY c.number)
    ), word AS MATERIALIZED (
        SELECT u.*, indexer_v1.fold(left(u.unit, 100)) AS folded,
               replace(replace(u.unit, ',', ''), '.', '') AS plain, u.at + length(u.unit) AS last,
               u.unit ~ '^[0-9]+(?:,[0-9]+)*\.' AS decimals,
               count(*) FILTER (WHERE u.after_cjk IS NOT FALSE OR u.gap !~ '^[-_.''’·&/@ ]?$')
                   OVER (ORDER BY u.n) AS line,
               count(*) FILTER (WHERE u.after_cjk IS NOT FALSE OR u.gap !~ '^[-_.''’·&/@]?$')
                   OVER (ORDER BY u.n) AS compound
        FROM unit u WHERE NOT u.cjk
    ), together AS (
        SELECT w.*, row_number() OVER (PARTITION BY w.compound ORDER BY w.n) AS nth,
               string_agg(w.plain, '') OVER compounds AS as_compound,
               max(w.last) OVER compounds AS compound_last,
               string_agg(w.plain, '') OVER lines AS as_line,
               max(w.last) OVER lines AS line_last
        FROM word w
        WINDOW compounds AS (PARTITION BY w.compound ORDER BY w.n
                             ROWS BETWEEN CURRENT ROW AND 5 FOLLOWING),
               lines AS (PARTITION BY w.line ORDER BY w.n ROWS BETWEEN CURRENT ROW AND 5 FOLLOWING)
    )
    SELECT p.one || CASE WHEN p.touches THEN p.two ELSE '' END, p.pos,
           CASE WHEN p.touches AND p.broken THEN 'D'
                ELSE substr('DBCA', 1 + (p.edge & 1)
                            + (CASE WHEN p.touches THEN p.two_edge ELSE p.edge END & 2), 1) END,
           p.at, CASE WHEN p.touches THEN p.two_at ELSE p.at END + 1
    FROM pair p
    UNION ALL
    SELECT w.folded, w.pos, 'A', w.at, w.last FROM word w WHERE NOT w.decimals
    UNION ALL
    SELECT substr(w.folded, k), w.pos, CASE WHEN w.unit ~ '[0-9]' THEN 'C' ELSE 'D' END,
           w.at + k - 1, w.last
    FROM word w, generate_series(2, least(length(w.folded), 40) - 3) AS k
    WHERE NOT w.decimals
    UNION ALL
    SELECT indexer_v1.fold(left(t.as_compound, 40)), t.pos, 'A', t.at, t.compound_last
    FROM together t
    WHERE t.nth = 1 AND t.compound_last > t.last AND length(t.as_compound) >= 4
    UNION ALL
    SELECT indexer_v1.fold(left(t.as_line, 24)), t.pos, 'B', t.at, t.line_last
    FROM together t
    WHERE t.line_last > t.compound_last AND length(t.as_line) >= 6
    UNION ALL
    SELECT '#' || a.amount, w.pos, 'A', w.at, w.at + length(substring(w.unit from '^[0-9.,o]+'))
    FROM word w, LATERAL (SELECT indexer_v1.amount(
             CASE WHEN w.folded ~ '^[0-9]+$' THEN w.folded ELSE w.unit END) AS amount OFFSET 0) AS a
    WHERE a.amount IS NOT NULL
      -- not the 86 of B2024-86, nor times
      AND NOT (w.gap = '-' AND w.previous ~ '[a-z]')
      AND NOT (w.gap = ':' AND w.previous ~ '^[0-9]+$')
      AND NOT (coalesce(w.next_gap = ':' AND w.following ~ '^[0-9]+', false))
    UNION ALL
    -- 12305 of 12,305.77
    SELECT substr(i.digits, k), w.pos, 'C', w.at, w.last
    FROM word w, LATERAL (SELECT replace(split_part(w.unit, '.', 1), ',', '') AS digits OFFSET 0) AS i,
         generate_series(1, least(length(i.digits), 40) - 3) AS k
    WHERE w.decimals
    UNION ALL
    SELECT d.token, w.pos, 'A', w.at, w.at + d.size
    FROM word w, LATERAL indexer_v1.date_at(
        substr(normalised, w.at + 1, 32), substr(normalised, greatest(w.at - 1, 1), least(w.at, 2)))
        AS whole(token, size),
        LATERAL (VALUES (whole.token, whole.size), ('@-' || substr(whole.token, 7),
                 CASE WHEN whole.token LIKE '@____-__-__' THEN whole.size END)) AS d(token, size)
    -- what can't be a date isn't looked at closely
    WHERE substr(normalised, w.at + 1, 8) ~
              '^[0-9oil]{1,4} ?[-./年月]|^[12][0-9oil]{7}|^[0-9]{1,2}(?:st|nd|rd|th)?[ -]?[adfjmnos]|^(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)'
      AND d.size IS NOT NULL
    UNION ALL
    SELECT d.token, r.pos + strpos(r.unit, found.said) - 1, 'A',
           r.at + strpos(r.unit, found.said) - 1, r.at + strpos(r.unit, found.said) - 1 + d.size
    FROM run r,
         LATERAL (SELECT substring(r.unit from
             '(?:[〇零一二三四五六七八九]{4}年)?[一二三四五六七八九十]{1,3}月[一二三四五六七八九十]{0,3}[日号]?')
             AS said OFFSET 0) AS found,
         LATERAL indexer_v1.date_at(found.said, '') AS whole(token, size),
         LATERAL (VALUES (whole.token, whole.size), ('@-' || substr(whole.token, 7),
                 CASE WHEN whole.token LIKE '@____-__-__' THEN whole.size END)) AS d(token, size)
    WHERE r.unit LIKE '%月%' AND found.said IS NOT NULL AND d.size IS NOT NULL;
END
$$;

-- What is written into indexer_v1.ocr.tsv. A very long text is indexed by its beginning.
CREATE OR REPLACE FUNCTION indexer_v1.to_tsvector(input text) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    -- 16383 is the last position that a tsvector can hold.
    RETURN indexer_v1.with_impacts((
        SELECT coalesce(
            string_agg(quote_literal(t.lexeme) || ':' || t.pos || t.weight, ' ')::tsvector,
            ''::tsvector)
        FROM indexer_v1.tokens(left(indexer_v1.normalize(left(input, 20000)), 20000)) AS t
        WHERE t.pos < 16384));
END
$$;

-- The impact that a word has on a text: how often it is there, by its weights, over the logarithm
-- of the text's length; what ts_rank_cd makes of a query of one word. Those that have 0.25 and more
-- get a second lexeme, without positions: +发票, with more ++发票, up to +++++发票. So the best texts for
-- a word that is everywhere can be had from the index (a tiered index: Manning et al. 2008, 7.2.1).
CREATE OR REPLACE FUNCTION indexer_v1.with_impacts(tsv tsvector) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN (
        WITH word AS MATERIALIZED (
            SELECT w.lexeme, w.weights, cardinality(w.weights) AS times,
                   sum(cardinality(w.weights)) OVER () AS length
            FROM unnest(with_impacts.tsv) AS w(lexeme, positions, weights)
        )
        SELECT with_impacts.tsv || coalesce(array_to_tsvector(array_agg(
                   repeat('+', greatest(1, width_bucket(i.weight / i.length,
                                                        '{0.25,0.29,0.35,0.45,0.6}')))
                   || i.lexeme)), '')
        FROM (
            -- The second lexemes add to the length in their turn.
            SELECT w.lexeme, w.weight, ln(1 + w.length + count(*) OVER ()) AS length
            FROM (
                SELECT w.lexeme, w.length, (
                    SELECT sum(CASE one WHEN 'A' THEN 1 WHEN 'B' THEN 0.8 WHEN 'C' THEN 0.7
                                        ELSE 0.4 END)::double precision
                    FROM unnest(w.weights) AS one) AS weight
                FROM word w
                WHERE w.times >= 0.25 * ln(1 + w.length) -- weights are 1 at most
                OFFSET 0 -- what has been summed up isn't summed up again
            ) AS w
            WHERE w.weight >= 0.25 * ln(1 + w.length)
        ) AS i);
END
$$;
