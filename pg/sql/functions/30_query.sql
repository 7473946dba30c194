-- The query language. Never raises an error.
--
--     发票 2024          both
--     发票 OR 收据       either (also |)
--     "上海 虹桥"        exactly this
--     -作废              not this
--     ocr:发票           by text alone (for the whole query)

-- The terms of a query, in order.
--   word, quoted, excluded   as they were typed
--   choice                   terms of one choice are alternatives (OR)
CREATE OR REPLACE FUNCTION indexer_v1.query_terms(query text)
RETURNS TABLE (word text, quoted boolean, excluded boolean, choice integer)
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    months CONSTANT text :=
        '(jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|'
        'sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?';
    body        text COLLATE "default" := regexp_replace(left(query, 2000), '^\s*ocr\s*[:：]', '', 'i');
    part        text[];
    alternative boolean := false; -- the last word was OR
    found       integer := 0;
BEGIN
    body := translate(body, '“”„«»「」『』＂｜　', '""""""""""| ');
    body := regexp_replace(body, '(^|\s)[－−](?=\S)', '\1-', 'g'); -- as Chinese keyboards give it
    -- A date is one term, however many blanks are in it: 2024年5月1日发票, Dec 25, 2023
    body := regexp_replace(body, '([^\s"0-9\-])(?=[12]\d{3} *年 *\d{1,2} *月)', '\1 ', 'g');
    body := regexp_replace(body, '([12]\d{3}) *年 *(\d{1,2}) *月 *(\d{1,2}) *[日号]?', '\1-\2-\3 ', 'g');
    body := regexp_replace(body, '([12]\d{3}) *年 *(\d{1,2}) *月', '\1年\2月 ', 'g');
    body := regexp_replace(body, '(\d{1,2}) *月 *(\d{1,2}) *[日号]', '\1月\2日 ', 'g');
    body := regexp_replace(body, '\y' || months || ' +(\d{1,2}),? +([12]\d{3})\y', '\1\2,\3', 'gi');
    body := regexp_replace(body, '\y(\d{1,2}) +' || months || ' +([12]\d{3})\y', '\1\2\3', 'gi');
    FOR part IN
        SELECT m FROM regexp_matches(body, '(-?)(?:"([^"]*)"?|(\|)|([^\s"|]+))', 'g') AS m LIMIT 64
    LOOP
        IF part[3] IS NOT NULL OR (part[1] = '' AND part[4] = 'OR') THEN
            alternative := found > 0;
            CONTINUE;
        END IF;
        word := coalesce(part[2], part[4]);
        quoted := part[2] IS NOT NULL;
        excluded := part[1] = '-';
        IF excluded THEN
            choice := 0;
        ELSE
            found := found + CASE WHEN alternative THEN 0 ELSE 1 END;
            choice := found;
            alternative := false;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;

DROP FUNCTION IF EXISTS indexer_v1.parse_query(text);

-- What a query asks for. Empty tsqueries where there is nothing.
--   wanted    text that must be there
--   unwanted  text that must not be there
--   picture   what to embed for the vector side; NULL for ocr: and where nothing is left
--   sure      the same as wanted, but only the letters as they are, as whole words
--   loose     the same again, also where the letters cut through words
--   parts     wanted, one by one
--   widened   what has wanted, but not sure, has this; all of wanted where there are several terms
CREATE OR REPLACE FUNCTION indexer_v1.parse_query(
    query text, OUT wanted tsquery, OUT unwanted tsquery, OUT picture text,
    OUT sure tsquery, OUT loose tsquery, OUT parts tsquery[], OUT widened tsquery)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET client_min_messages = warning -- no notice about a query without words
AS $$
DECLARE
    term        record;
    asked       record;
    choice      integer := 0;
    choice_wide tsquery := ''::tsquery;
    choice_sure tsquery := ''::tsquery;
    choice_loose tsquery := ''::tsquery;
    letters     text := ''; -- the query in one word, while it is letters and digits alone
BEGIN
    wanted := ''::tsquery;
    sure := ''::tsquery;
    loose := ''::tsquery;
    unwanted := ''::tsquery;
    widened := ''::tsquery;
    parts := '{}';
    FOR term IN SELECT * FROM indexer_v1.query_terms(query) LOOP
        SELECT * INTO asked FROM indexer_v1.term_query(term.word, term.quoted);
        IF term.excluded THEN
            unwanted := unwanted || asked.sure;
            letters := NULL;
            CONTINUE;
        END IF;
        IF term.choice <> choice THEN
            wanted := wanted && choice_wide;
            sure := sure && choice_sure;
            loose := loose && choice_loose;
            parts := parts || choice_wide;
            choice := term.choice;
            choice_wide := ''::tsquery;
            choice_sure := ''::tsquery;
            choice_loose := ''::tsquery;
        ELSE
            letters := NULL;
        END IF;
        choice_wide := choice_wide || asked.wide;
        widened := widened || asked.wider;
        choice_sure := choice_sure || asked.sure;
        choice_loose := choice_loose || asked.loose;
        letters := letters || CASE WHEN NOT term.quoted AND term.word ~ '^[A-Za-z0-9]+$'
                                   THEN term.word END;
    END LOOP;
    wanted := wanted && choice_wide;
    sure := sure && choice_sure;
    loose := loose && choice_loose;
    parts := array_remove(parts || choice_wide, ''::tsquery);
    -- thank you: also ThankYouForShopping
    IF choice > 1 AND length(letters) >= 6 THEN
        SELECT * INTO asked FROM indexer_v1.term_query(letters, false);
        wanted := wanted || asked.wide;
        loose := loose || asked.loose;
    END IF;
    IF choice > 1 THEN
        widened := wanted;
    END IF;
    IF query !~* '^\s*ocr\s*[:：]' THEN
        picture := regexp_replace(query COLLATE "default", '(^|[\s　])[-－−](?:["“”„«»「」『』＂][^"“”„«»「」『』＂]*["“”„«»「」『』＂]?|\S+)', ' ', 'g');
        picture := regexp_replace(picture COLLATE "default", '["“”„«»「」『』＂|｜]|\yOR\y', ' ', 'g');
        picture := nullif(btrim(regexp_replace(picture, '\s+', ' ', 'g')), '');
    END IF;
END
$$;

-- The query as one tsquery, for people who write their own SQL:
--     SELECT asset_id FROM indexer_v1.ocr WHERE tsv @@ indexer_v1.to_tsquery('发票 -作废')
-- A query that only excludes finds nothing: an index can't help it.
CREATE OR REPLACE FUNCTION indexer_v1.to_tsquery(query text) RETURNS tsquery
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
    SELECT CASE WHEN numnode(wanted) = 0 OR numnode(unwanted) = 0 THEN wanted
                ELSE wanted && !! unwanted
           END
    FROM indexer_v1.parse_query(query)
$$;
