-- The query language, on top of whichever tokenizer is in use. Never raises an error.
--
--     发票 2024          both
--     发票 OR 收据       either (also |)
--     "上海 虹桥"        exactly this
--     -作废              not this
--     ocr:发票           by text alone (for the whole query)

-- What a query asks for.
--   wanted    text that must be there; empty where there is none
--   unwanted  text that must not be there; empty where there is none
--   picture   what to embed for the vector side; NULL for ocr: and where nothing is left
CREATE OR REPLACE FUNCTION indexer_v1.parse_query(
    query text, OUT wanted tsquery, OUT unwanted tsquery, OUT picture text)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning -- no notice about a query without words
AS $$
DECLARE
    text_only  boolean := query ~* '^\s*ocr\s*[:：]';
    body       text := regexp_replace(coalesce(query, ''), '^\s*ocr\s*[:：]', '', 'i');
    part       text[];
    term       tsquery;
    alternative boolean := false; -- the last word was OR
    choice     tsquery := ''::tsquery;
    words      text[] := '{}';
BEGIN
    wanted := ''::tsquery;
    unwanted := ''::tsquery;
    body := translate(body, '“”„«»「」『』＂｜', '"""""""""""|');
    FOR part IN
        SELECT m FROM regexp_matches(body, '(-?)(?:"([^"]*)"?|(\|)|([^\s"|]+))', 'g') AS m
    LOOP
        IF part[3] IS NOT NULL OR (part[1] = '' AND part[4] = 'OR') THEN
            alternative := numnode(choice) > 0;
            CONTINUE;
        END IF;
        term := indexer_v1.term_query(coalesce(part[2], part[4]), part[2] IS NOT NULL);
        IF part[1] = '-' THEN
            unwanted := unwanted || term;
            CONTINUE;
        END IF;
        words := words || coalesce(part[2], part[4]);
        IF numnode(term) > 0 THEN
            IF alternative THEN
                choice := choice || term;
            ELSE
                wanted := wanted && choice;
                choice := term;
            END IF;
        END IF;
        alternative := false;
    END LOOP;
    wanted := wanted && choice;
    picture := CASE WHEN NOT text_only THEN nullif(btrim(array_to_string(words, ' ')), '') END;
END
$$;

-- The query as one tsquery, for people who write their own SQL:
--     SELECT asset_id FROM indexer_v1.ocr WHERE tsv @@ indexer_v1.to_tsquery('发票 -作废')
-- A query that only excludes finds nothing: an index can't help it.
CREATE OR REPLACE FUNCTION indexer_v1.to_tsquery(query text) RETURNS tsquery
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN numnode(wanted) = 0 OR numnode(unwanted) = 0 THEN wanted
                ELSE wanted && !! unwanted
           END
    FROM indexer_v1.parse_query(query)
$$;
