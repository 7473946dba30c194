-- Why these photos answer a query: the lines of text that do, and which characters in them. For the
-- page that is shown, not for everything that is found.
--
--     SELECT * FROM indexer_v1.matches('发票', ARRAY[…]::uuid[])
--
--   line   its number in the picture, from 1, in reading order
--   text   as OCR read it
--   box    corners x1,y1 … x4,y4 as shares of the picture's width and height; NULL where unknown
--   score  how sure OCR was of the text, 0 to 1; NULL where unknown
--   marks  what matches, [[from, to), …] in characters of the text, from 0, in order, apart
--
-- Marked is what the words of the query stand for, as they are or as OCR made of them; letters that
-- cut through words only where there is nothing else. Words to exclude mark nothing.
CREATE OR REPLACE FUNCTION indexer_v1.matches(query text, asset_ids uuid[])
RETURNS TABLE (
    asset_id uuid, line integer, text text, box jsonb, score double precision, marks jsonb)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    patterns jsonb;
    letters  text;
    photo    record;
BEGIN
    SELECT jsonb_agg(jsonb_build_object(
               'term', t.n, 'level', a.level, 'alternative', a.n, 'phrases', jsonb_array_length(a.phrases),
               'phrase', phrase.n, 'items', jsonb_array_length(phrase.items), 'item', listed.n,
               'at', listed.item -> 'at', 'prefix', listed.item -> 'prefix',
               'weights', listed.item -> 'weights', 'lexeme', lexeme)),
           string_agg(regexp_replace(lexeme, '[@#\]\[\\^-]', '', 'g'), '')
           -- dates in any writing, letters that were folded
           || CASE WHEN bool_or(lexeme LIKE '@%') THEN '0-9〇零一二三四五六七八九十' ELSE '' END
           || CASE WHEN bool_or(lexeme ~ '[01]') THEN 'oil01' ELSE '' END
    INTO patterns, letters
    FROM indexer_v1.query_terms(query) WITH ORDINALITY AS t(word, quoted, excluded, choice, n),
         indexer_v1.term_alternatives(t.word, t.quoted) WITH ORDINALITY AS a(level, phrases, n),
         jsonb_array_elements(a.phrases) WITH ORDINALITY AS phrase(items, n),
         jsonb_array_elements(phrase.items) WITH ORDINALITY AS listed(item, n),
         jsonb_array_elements_text(listed.item -> 'lexemes') AS lexeme
    WHERE NOT t.excluded;
    IF letters = '' OR patterns IS NULL THEN
        RETURN;
    END IF;
    FOR photo IN
        SELECT o.asset_id,
               CASE WHEN jsonb_array_length(o.lines) > 0 THEN o.lines
                    ELSE (SELECT jsonb_agg(jsonb_build_object('text', said))
                          FROM regexp_split_to_table(o.text, '\n') AS said) END AS lines
        FROM indexer_v1.ocr o WHERE o.asset_id = ANY (asset_ids)
        ORDER BY array_position(asset_ids, o.asset_id)
    LOOP
        RETURN QUERY
        SELECT photo.asset_id, m.line, m.text, m.box, m.score, m.marks
        FROM indexer_v1.matching_lines(photo.lines, patterns, '[' || letters || ']') AS m;
    END LOOP;
END
$$;

-- Which characters of a text became these of its normalised form. Nearly always the same ones;
-- NFKC makes several of ㈱ and ½, and one of ｶﾞ.
CREATE OR REPLACE FUNCTION indexer_v1.original_range(
    said text, normal text, starts integer, ends integer, OUT first integer, OUT last integer)
LANGUAGE plpgsql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    first := starts;
    last := ends;
    IF length(said) <> length(normal) THEN
        SELECT min(c.at - c.size), max(c.at) INTO first, last
        FROM (
            SELECT length(m[1]) AS size,
                   sum(length(m[1])) OVER w AS at,
                   sum(length(made)) OVER w AS made_at, length(made) AS made_size
            -- a character with the marks that NFKC joins to it
            FROM regexp_matches(said, '.[\u0300-\u036f\u3099\u309a\uff9e\uff9f]*', 'g')
                     WITH ORDINALITY AS r(m, n),
                 LATERAL (SELECT indexer_v1.normalize(m[1]) AS made OFFSET 0) AS pieces
            WINDOW w AS (ORDER BY n)
        ) AS c
        WHERE c.made_at > starts AND c.made_at - c.made_size < ends;
    END IF;
END
$$;

-- The same for one photo. letters: a line without any of these can't match.
CREATE OR REPLACE FUNCTION indexer_v1.matching_lines(lines jsonb, patterns jsonb, letters text)
RETURNS TABLE (line integer, text text, box jsonb, score double precision, marks jsonb)
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH likely AS MATERIALIZED (
        SELECT n::integer, said, normal, item -> 'box' AS box,
               (item ->> 'text_score')::double precision AS score,
               -- A gap between lines that aren't neighbours: no phrase reaches across it.
               CASE WHEN n - lag(n) OVER w = 1 THEN E'\n' ELSE E'\n\ue000\n' END AS break
        FROM jsonb_array_elements(matching_lines.lines) WITH ORDINALITY AS listed(item, n),
             LATERAL (SELECT item ->> 'text' AS said OFFSET 0) AS read,
             LATERAL (SELECT indexer_v1.normalize(said) AS normal OFFSET 0) AS made
        WHERE normal ~ matching_lines.letters
        WINDOW w AS (ORDER BY n)
    ), placed AS MATERIALIZED (
        SELECT l.*, sum(length(l.break) + length(l.normal)) OVER (ORDER BY l.n)::integer
                    - length(l.normal) AS starts
        FROM likely l
    ), whole AS MATERIALIZED (
        SELECT string_agg(p.break || p.normal, '' ORDER BY p.n) AS input FROM placed p
    ), token AS MATERIALIZED (
        SELECT t.* FROM whole w, indexer_v1.tokens(w.input) AS t
    ), pattern AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(matching_lines.patterns) AS p(
            term integer, level integer, alternative integer, phrases integer, phrase integer,
            items integer, item integer, at integer, prefix boolean, weights text, lexeme text)
    ), hit AS (
        SELECT p.*, t.pos - p.at AS origin, t.starts, t.ends
        FROM pattern p JOIN token t ON t.lexeme = p.lexeme
        WHERE (p.weights = '' OR strpos(p.weights, t.weight) > 0)
        UNION ALL
        SELECT p.*, t.pos - p.at, t.starts,
               -- of a longer token, the part that was asked for
               CASE WHEN left(p.lexeme, 1) = '@' THEN t.ends
                    ELSE t.starts + length(substring(
                        substr(w.input, t.starts + 1, t.ends - t.starts) COLLATE "default"
                        from '^(?:\W*\w){' || length(p.lexeme) || '}')) END
        FROM whole w, pattern p JOIN token t ON starts_with(t.lexeme, p.lexeme)
        WHERE p.prefix AND t.lexeme <> p.lexeme
          AND (p.weights = '' OR strpos(p.weights, t.weight) > 0)
    ), phrase AS (
        SELECT h.term, h.level, h.alternative, h.phrases, h.phrase,
               range_agg(int4range(h.starts, h.ends)) AS spans
        FROM hit h
        GROUP BY h.term, h.level, h.alternative, h.phrases, h.phrase, h.items, h.origin
        HAVING count(DISTINCT h.item) = h.items
    ), complete AS (
        SELECT p.*, min(p.level) OVER (PARTITION BY p.term) AS best,
               (SELECT count(DISTINCT q.phrase) FROM phrase q
                WHERE q.term = p.term AND q.alternative = p.alternative) = p.phrases AS whole
        FROM phrase p
    ), span AS (
        SELECT range_agg(part) AS spans -- of multiranges only since PostgreSQL 15
        FROM complete c, unnest(c.spans) AS part
        WHERE c.whole AND (c.level < 2 OR c.best = 2)
    )
    SELECT p.n, p.said, p.box, p.score, found.marks
    FROM placed p, span s,
         LATERAL (
             SELECT jsonb_agg(jsonb_build_array(lower(mark), upper(mark)) ORDER BY mark) AS marks
             FROM unnest((
                 SELECT range_agg(int4range(o.first, o.last))
                 FROM unnest(s.spans * int4multirange(
                          int4range(p.starts, p.starts + length(p.normal)))) AS part,
                      indexer_v1.original_range(
                          p.said, p.normal, lower(part) - p.starts, upper(part) - p.starts) AS o
             )) AS mark
         ) AS found
    WHERE found.marks IS NOT NULL
    ORDER BY p.n;
END
$$;
