"""What our functions may do, whoever calls them and whatever is on their search_path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from assets import add_asset, add_owner
from psycopg import sql

from indexer.listener import Listener, Wake
from pg.connect import Connection, connect
from pg.detach import detach
from pg.migrate import MigrationError, migrate
from pg.query import fetch_value

FUNCTIONS = """
    SELECT p.oid::regprocedure::text AS name, p.prosecdef, l.lanname, p.provolatile,
           (SELECT substr(c, 13) FROM unnest(p.proconfig) AS c WHERE starts_with(c, 'search_path='))
               AS path,
           pg_get_functiondef(p.oid) AS definition
    FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
    WHERE p.pronamespace = 'indexer_v1'::regnamespace ORDER BY 1
"""


@pytest.fixture
def connection(indexed_database: str) -> Iterator[Connection]:
    with connect(indexed_database) as opened:
        yield opened


@pytest.fixture
def stranger(connection: Connection) -> Iterator[str]:
    """A role of the server that may use nothing yet; the test's transaction makes it."""
    with connection.transaction(force_rollback=True):
        connection.execute("CREATE ROLE test_stranger")
        yield "test_stranger"


@contextmanager
def plain_immich(connection: Connection) -> Iterator[None]:
    """An Immich that isn't a superuser owns the database and its tables; nothing is attached yet.

    The test's transaction makes it so, and the connection is that role's.
    """
    with connection.transaction(force_rollback=True):
        detach(connection)
        connection.execute("CREATE ROLE test_immich")
        database = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO test_immich").format(database))
        connection.execute("ALTER SCHEMA public OWNER TO test_immich")
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " AND relkind = 'r'"
        ).fetchall()
        for (table,) in tables:
            connection.execute(
                sql.SQL("ALTER TABLE {} OWNER TO test_immich").format(sql.Identifier(table))
            )
        connection.execute("SET LOCAL ROLE test_immich")
        yield


@pytest.fixture
def immichs_role(connection: Connection) -> Iterator[None]:
    with plain_immich(connection):
        yield


def test_immich_need_not_be_a_superuser(connection: Connection, immichs_role: None) -> None:
    assert migrate(connection).triggers == 7
    asset = add_asset(connection, owner=add_owner(connection))
    jobs = "SELECT count(*) FROM indexer_v1.job WHERE asset_id = %s"
    assert fetch_value(connection, jobs, [asset]) == 2
    assert migrate(connection).applied == []
    assert "schema indexer_v1" in detach(connection)


@pytest.mark.zhparser
def test_nor_where_zhparser_is(zhparser_database: str) -> None:
    """Before it is loaded only superusers know what can be SET for it."""
    with connect(zhparser_database) as connection, plain_immich(connection):
        assert migrate(connection).tokenizer == "zhparser"
        assert fetch_value(connection, "SELECT indexer_v1.words('天气预报')")


def test_another_role_is_told_which_is_immichs(connection: Connection, immichs_role: None) -> None:
    connection.execute("RESET ROLE")  # a superuser may do it all, but Immich then not use it
    with pytest.raises(MigrationError, match="DB_USERNAME=test_immich"):
        migrate(connection)
    assert not fetch_value(connection, "SELECT to_regnamespace('indexer_v1') IS NOT NULL")


def test_a_role_that_may_not_make_a_schema_is_told(
    connection: Connection, immichs_role: None
) -> None:
    connection.execute("RESET ROLE")
    database = sql.Identifier(connection.info.dbname)
    connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO CURRENT_USER").format(database))
    connection.execute("SET LOCAL ROLE test_immich")
    with pytest.raises(MigrationError, match="GRANT CREATE ON DATABASE") as refused:
        migrate(connection)
    connection.execute("RESET ROLE")
    connection.execute(str(refused.value).partition("run: ")[2].encode())  # what it says to do
    connection.execute("SET LOCAL ROLE test_immich")
    assert migrate(connection).triggers == 7


def test_what_another_role_has_made_is_not_used(connection: Connection, immichs_role: None) -> None:
    connection.execute("RESET ROLE")
    connection.execute("CREATE SCHEMA indexer_v1")
    connection.execute("SET LOCAL ROLE test_immich")
    with pytest.raises(MigrationError, match="run immich-indexer detach as"):
        migrate(connection)


def test_nothing_runs_with_its_owners_rights(connection: Connection) -> None:
    assert [row[0] for row in connection.execute(FUNCTIONS) if row[1]] == []


def test_every_function_fixes_where_names_are_looked_up_or_needs_no_looking(
    connection: Connection,
) -> None:
    """Without a fixed search_path only SQL functions, to be inlined, and of qualified names."""
    found = connection.execute(FUNCTIONS).fetchall()
    assert len(found) > 40
    for name, _, language, volatility, path, definition in found:
        if path is not None:
            names = [part.strip().strip('"') for part in path.split(",")]
            assert names[0] == "pg_catalog", (name, path)  # nobody shadows PostgreSQL's own
            assert names[-1] == "pg_temp", (name, path)  # nor anything by a temporary table
            continue
        assert (language, volatility) == ("sql", "i"), name
        with connection.transaction(force_rollback=True):
            connection.execute("SET LOCAL search_path = ''")
            connection.execute("SET LOCAL check_function_bodies = on")
            connection.execute(definition.encode())  # would fail where a name is found no more


def test_the_schema_is_closed_to_others(connection: Connection, stranger: str) -> None:
    assert not fetch_value(
        connection, "SELECT has_schema_privilege(%s, 'indexer_v1', 'USAGE, CREATE')", [stranger]
    )
    connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(stranger)))
    for statement in (
        "SELECT * FROM indexer_v1.search('x')",
        "TABLE indexer_v1.ocr",
        "INSERT INTO indexer_v1.reprocess (asset_id) VALUES (gen_random_uuid())",
        "SELECT indexer_v1.estimated_rows('SELECT 1')",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
            connection.execute(statement.encode())


def test_triggers_give_nobody_more_rights_and_stop_nobody(
    connection: Connection, stranger: str
) -> None:
    """Somebody who may write Immich's tables alone: no job, a warning, and no failure."""
    asset = add_asset(connection, preview=False)
    role = sql.Identifier(stranger)
    connection.execute(sql.SQL("GRANT SELECT, INSERT, UPDATE ON asset_file TO {}").format(role))
    connection.execute(sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(role))
    notices: list[str] = []
    connection.add_notice_handler(lambda notice: notices.append(str(notice.message_primary)))
    connection.execute(sql.SQL("SET LOCAL ROLE {}").format(role))
    connection.execute(
        """INSERT INTO asset_file ("assetId", type, path) VALUES (%s, 'preview', '/p')""", [asset]
    )
    connection.execute("RESET ROLE")
    assert fetch_value(connection, "SELECT count(*) FROM indexer_v1.job") == 0
    assert any("asset_file not queued: permission denied" in notice for notice in notices)


def test_nobody_shadows_what_triggers_use(connection: Connection) -> None:
    """Whoever writes Immich's tables may have a search_path, and temporary tables, of his own."""
    asset = add_asset(connection, preview=False, owner=add_owner(connection))
    connection.execute(
        """
        CREATE SCHEMA evil;
        CREATE TABLE evil.job (LIKE indexer_v1.job);
        CREATE TEMP TABLE job (LIKE indexer_v1.job);
        CREATE FUNCTION evil.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'evil'; END $$;
        CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'evil'; END $$;
        CREATE FUNCTION evil.never(text, text) RETURNS boolean LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'evil'; END $$;
        CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.never);
        SET search_path = evil, pg_temp, public, pg_catalog;
        """
    )
    connection.execute(
        """INSERT INTO public.asset_file ("assetId", type, path) VALUES (%s, 'preview', '/p')""",
        [asset],
    )
    rows = connection.execute(
        'SELECT asset_id, task FROM indexer_v1.job ORDER BY task COLLATE "C"'
    ).fetchall()
    assert rows == [(asset, "clip"), (asset, "ocr")]


def test_a_forged_message_wakes_and_does_nothing_else(
    connection: Connection, indexed_database: str
) -> None:
    """Whoever may connect may NOTIFY."""
    wake = Wake()
    listening = Listener(indexed_database, wake)
    listening.start()
    try:
        assert listening.listening.wait(30)
        for payload in ("x" * 7999, "'; DROP TABLE asset; --", '{"jobs": [[[', "\n\r\x1b[2J"):
            heard = wake.rings
            connection.execute("SELECT pg_notify('indexer_v1', %s)", [payload])
            wake.wait(heard, 30)
            assert wake.rings > heard
        assert listening.reconnects == 0
    finally:
        listening.stop()
    assert fetch_value(connection, "SELECT count(*) FROM indexer_v1.job") == 0
