"""Migrations: once, one at a time, never on the wrong database; functions whenever they change."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest
from assets import add_assets
from together import together

from pg import locks
from pg import shipped as shipped_files
from pg.connect import Connection, connect
from pg.detach import StillRunningError, detach
from pg.migrate import (
    MigrationError,
    Report,
    create_library_tables,
    migrate,
    retokenize,
    stale_rows,
)
from pg.query import fetch_value

BIGRAM, ZHPARSER = "functions/20_tokenizer_bigram.sql", "functions/20_tokenizer_zhparser.sql"


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    with connect(database) as opened:
        yield opened


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The files that `migrate` reads, by name; change them here."""
    files = {**shipped_files.read("migrations"), **shipped_files.read("functions")}
    monkeypatch.setattr(
        shipped_files,
        "read",
        lambda folder: {n: t for n, t in sorted(files.items()) if n.startswith(f"{folder}/")},
    )
    return files


def snapshot(connection: Connection) -> list[tuple[object, ...]]:
    """Everything in our schema and the triggers on Immich's tables."""
    return connection.execute(
        """
        SELECT 'function', oid::regprocedure::text, md5(pg_get_functiondef(oid)) FROM pg_proc
        WHERE pronamespace = 'indexer_v1'::regnamespace
        UNION ALL
        SELECT 'column', attrelid::regclass || '.' || attname, format_type(atttypid, atttypmod)
        FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
        WHERE relnamespace = 'indexer_v1'::regnamespace AND attnum > 0
        UNION ALL
        SELECT 'trigger', tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL
        SELECT 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'indexer_v1'::regnamespace
        ORDER BY 1, 2, 3
        """
    ).fetchall()


def test_twice_is_once(connection: Connection) -> None:
    first = migrate(connection)
    assert set(first.applied) == {
        *shipped_files.read("migrations"),
        *shipped_files.read("functions"),
    } - {ZHPARSER}
    assert first.triggers > 0
    assert first.healed == []
    before = snapshot(connection)

    assert migrate(connection) == Report([], [], "bigram", 0)
    assert snapshot(connection) == before


@pytest.mark.parametrize("variant", ["3.1", "2.3"])
def test_every_layout_of_immich(connection: Connection, variant: str) -> None:
    migrate(connection)
    assert fetch_value(connection, "SELECT count(*) FROM indexer_v1.missing_triggers()") == 0


def test_folder_mode(empty_database: str) -> None:
    with connect(empty_database) as connection:
        create_library_tables(connection)
        create_library_tables(connection)
        assert "migrations/001_tables.sql" in migrate(connection).applied
        assert migrate(connection).applied == []


def test_two_at_the_same_time(database: str) -> None:
    def run() -> Report:
        with connect(database) as connection:
            return migrate(connection)

    reports = together(run, run, run, run)
    assert [bool(report.applied) for report in reports].count(True) == 1
    assert [report.triggers > 0 for report in reports].count(True) == 1


def test_edited_migration_is_refused(connection: Connection, shipped: dict[str, str]) -> None:
    migrate(connection)
    before = snapshot(connection)
    shipped["migrations/001_tables.sql"] += "\nDROP TABLE public.asset CASCADE;\n"
    with pytest.raises(MigrationError, match=r"001_tables\.sql has been edited"):
        migrate(connection)
    assert snapshot(connection) == before


def test_new_migration_is_run_once(connection: Connection, shipped: dict[str, str]) -> None:
    migrate(connection)
    shipped["migrations/999_more.sql"] = "CREATE TABLE indexer_v1.more (id int);"
    assert migrate(connection).applied == ["migrations/999_more.sql"]
    assert migrate(connection).applied == []


def test_failing_migration_leaves_nothing(connection: Connection, shipped: dict[str, str]) -> None:
    shipped["migrations/999_more.sql"] = "CREATE TABLE indexer_v1.more (id int); SELECT 1 / 0;"
    with pytest.raises(Exception, match="division by zero"):
        migrate(connection)
    assert fetch_value(connection, "SELECT to_regnamespace('indexer_v1') IS NULL")


def test_newer_database_is_refused(connection: Connection) -> None:
    migrate(connection)
    connection.execute(
        "INSERT INTO indexer_v1.migration (name, sha256) VALUES ('migrations/998_later.sql', 'x')"
    )
    before = snapshot(connection)
    with pytest.raises(MigrationError, match=r"newer immich-indexer.*998_later\.sql"):
        migrate(connection)
    assert snapshot(connection) == before


def test_not_immichs_database(empty_database: str) -> None:
    with connect(empty_database) as connection:
        with pytest.raises(MigrationError, match=r"holds no Immich.*Point DB_URL at"):
            migrate(connection)
        connection.execute("CREATE TABLE assets (id uuid)")
        with pytest.raises(MigrationError, match=r"an Immich before 2\.3"):
            migrate(connection)
        assert fetch_value(connection, "SELECT to_regnamespace('indexer_v1') IS NULL")


def test_without_pgvector(empty_database: str) -> None:
    with connect(empty_database) as connection:
        connection.execute("CREATE TABLE asset (id uuid); CREATE TABLE asset_file (id uuid)")
        with pytest.raises(MigrationError, match="CREATE EXTENSION vector"):
            migrate(connection)


@pytest.mark.parametrize("version", ["0.5.1", "0.6.2", "0.4"])
def test_old_pgvector(connection: Connection, version: str) -> None:
    # The catalogue says which version it is: no old build is at hand.
    connection.execute(
        "UPDATE pg_extension SET extversion = %s WHERE extname = 'vector'", [version]
    )
    with pytest.raises(MigrationError, match=f"pgvector {version} is too old.*ALTER EXTENSION"):
        migrate(connection)


def test_functions_are_run_again_with_another_pgvector(connection: Connection) -> None:
    migrate(connection)
    connection.execute("UPDATE pg_extension SET extversion = '0.7.0' WHERE extname = 'vector'")
    assert "functions/60_search.sql" in migrate(connection).applied
    settings: list[str] = fetch_value(
        connection, "SELECT proconfig FROM pg_proc WHERE proname = 'search'"
    )
    assert not any("iterative_scan" in setting for setting in settings)  # came with 0.8


def test_changed_function_is_run_again(connection: Connection, shipped: dict[str, str]) -> None:
    migrate(connection)
    name = "functions/30_query.sql"
    shipped[name] = shipped[name].replace("'ocr\\s*[:：]'", "'txt\\s*[:：]'") + "\n-- edited\n"
    assert migrate(connection).applied == [name]
    assert migrate(connection).applied == []


def test_functions_that_were_lost_need_no_luck(connection: Connection) -> None:
    """Somebody dropped a trigger: it is made again, and counted."""
    migrate(connection)
    connection.execute("DROP TRIGGER immich_indexer_insert ON asset_file")
    assert migrate(connection).triggers == 1
    connection.execute("ALTER TABLE asset DISABLE TRIGGER immich_indexer_update")
    assert migrate(connection).triggers == 1
    assert migrate(connection).triggers == 0


def test_existing_rows_survive(connection: Connection, shipped: dict[str, str]) -> None:
    migrate(connection)
    add_assets(connection, 3)
    shipped["migrations/999_more.sql"] = "CREATE TABLE indexer_v1.more (id int);"
    migrate(connection)
    assert fetch_value(connection, "SELECT count(*) FROM indexer_v1.job") == 6


# Beside an Immich at work


def test_immich_is_not_held_up_while_we_wait_for_it(connection: Connection, database: str) -> None:
    """To make triggers takes a lock that a long transaction of Immich's keeps us from."""
    asset = make_work_for_migrate(connection)
    with connect(database) as long, connect(database) as immich, ThreadPoolExecutor() as threads:
        with long.transaction():
            long.execute('UPDATE asset SET "isFavorite" = true')
            migrating = threads.submit(migrate, connection)
            immich.execute("SET statement_timeout = '20s'")
            waiting = (
                "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"
                " AND relation = 'public.asset'::regclass"
            )
            while not fetch_value(immich, waiting):
                assert not migrating.done()
            add_assets(immich, preview=False)
        assert migrating.result().triggers == 1
    assert asset


def test_a_transaction_that_never_ends(
    connection: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_TRIES", 2)
    monkeypatch.setattr(locks, "_PAUSE_SECONDS", 0.01)
    make_work_for_migrate(connection)
    with connect(database) as long, long.transaction():
        long.execute('UPDATE asset SET "isFavorite" = true')
        with pytest.raises(MigrationError, match="try again when it has ended"):
            migrate(connection)
    assert migrate(connection).triggers == 1


def test_detach_holds_nobody_up_either(
    connection: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_TRIES", 2)
    monkeypatch.setattr(locks, "_PAUSE_SECONDS", 0.01)
    migrate(connection)
    with connect(database) as long, long.transaction():
        long.execute('UPDATE asset SET "isFavorite" = true')
        with pytest.raises(locks.TablesLockedError, match="Nothing was changed"):
            detach(connection)
    assert migrate(connection).triggers == 0  # nothing was removed
    assert "schema indexer_v1" in detach(connection)


def test_nothing_is_removed_while_a_worker_would_make_it_again(connection: Connection) -> None:
    migrate(connection)
    connection.execute(
        "INSERT INTO indexer_v1.worker (id, host, pid, device)"
        " VALUES (gen_random_uuid(), 'nas', 7, 'cpu')"
    )
    for keep_data in (True, False):
        with pytest.raises(StillRunningError, match="host nas, process 7"):
            detach(connection, keep_data=keep_data)
    assert migrate(connection).applied == []
    connection.execute("UPDATE indexer_v1.worker SET seen_at = now() - interval '31 seconds'")
    assert "schema indexer_v1" in detach(connection)


def make_work_for_migrate(connection: Connection) -> UUID:
    migrate(connection)
    (asset,) = add_assets(connection)
    connection.execute("DROP TRIGGER immich_indexer_update ON asset")
    return asset


# The choice of tokenizer


def test_zhparser_that_is_not_there_is_refused(connection: Connection) -> None:
    with pytest.raises(MigrationError, match="run CREATE EXTENSION zhparser"):
        migrate(connection, "zhparser")


def test_choice_is_recorded(connection: Connection) -> None:
    assert migrate(connection).tokenizer == "bigram"
    recorded = "SELECT value FROM indexer_v1.setting WHERE name = 'tokenizer'"
    assert fetch_value(connection, recorded) == "bigram"
    assert fetch_value(connection, "SELECT indexer_v1.tokenizer()") == "bigram/4"


def test_zhparser_that_has_gone(connection: Connection, caplog: pytest.LogCaptureFixture) -> None:
    migrate(connection)
    connection.execute("UPDATE indexer_v1.setting SET value = 'zhparser' WHERE name = 'tokenizer'")
    assert migrate(connection).tokenizer == "bigram"
    assert "zhparser is gone" in caplog.text


def add_texts(connection: Connection, count: int) -> None:
    connection.execute(
        "INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model, content_hash)"
        " SELECT id, '发票 ' || id, '[]', indexer_v1.to_tsvector('发票'), indexer_v1.tokenizer(),"
        " 'm', sha256('') FROM unnest(%s) AS id",
        [add_assets(connection, count)],
    )


def test_retokenize_goes_on_where_it_stopped(connection: Connection, database: str) -> None:
    migrate(connection)
    add_texts(connection, 25)
    connection.execute("UPDATE indexer_v1.ocr SET tokenizer = 'older/1', tsv = ''")
    migrate(connection)
    assert stale_rows(connection) == 25
    assert next(retokenize(connection, 10)) == 10
    assert stale_rows(connection) == 15
    with connect(database) as another:  # the first was killed; or beside it
        assert list(retokenize(another, 10)) == [10, 5]
    found = "SELECT count(*) FROM indexer_v1.ocr WHERE tsv @@ indexer_v1.to_tsquery('发票')"
    assert fetch_value(connection, found) == 25


def test_two_retokenize_together(connection: Connection, database: str) -> None:
    migrate(connection)
    add_texts(connection, 60)
    connection.execute("UPDATE indexer_v1.ocr SET tokenizer = 'older/1'")

    def run() -> int:
        with connect(database) as mine:
            return sum(retokenize(mine, 7))

    done = sum(together(run, run))
    done += sum(retokenize(connection, 7))  # what the other one held when the last looked
    assert done == 60
    assert stale_rows(connection) == 0


@pytest.mark.zhparser
def test_to_zhparser_and_back(zhparser_database: str) -> None:
    with connect(zhparser_database) as connection:
        assert migrate(connection, "bigram").tokenizer == "bigram"
        add_texts(connection, 4)
        assert migrate(connection).tokenizer == "bigram"  # what is recorded stays
        report = migrate(connection, "zhparser")
        assert (report.tokenizer, stale_rows(connection)) == ("zhparser", 4)
        assert report.applied == [ZHPARSER]
        assert list(retokenize(connection, 3)) == [3, 1]
        assert (
            fetch_value(
                connection,
                "SELECT count(*) FROM indexer_v1.ocr WHERE tsv @@ indexer_v1.to_tsquery('发票')",
            )
            == 4
        )
        report = migrate(connection, "bigram")
        assert (report.applied, stale_rows(connection)) == ([BIGRAM], 4)


@pytest.mark.zhparser
def test_zhparser_is_taken_where_it_is(zhparser_database: str) -> None:
    with connect(zhparser_database) as connection:
        assert migrate(connection).tokenizer == "zhparser"
        assert fetch_value(connection, "SELECT indexer_v1.tokenizer()") == "zhparser/4"


@pytest.mark.zhparser
def test_zhparser_dropped_under_us(zhparser_database: str) -> None:
    with connect(zhparser_database) as connection:
        migrate(connection)
        add_texts(connection, 3)
        connection.execute("DROP EXTENSION zhparser CASCADE")
        report = migrate(connection)
        assert (report.tokenizer, stale_rows(connection)) == ("bigram", 3)
        assert list(retokenize(connection)) == [3]


def test_sql_files_are_in_the_package() -> None:
    folder = Path(shipped_files.__file__).parent / "sql"
    assert {path.name for path in (folder / "migrations").iterdir()} == {
        name.removeprefix("migrations/") for name in shipped_files.read("migrations")
    }
