"""A family's photo library of any size, the same for the same seed: what `bench.search` runs on.

- Photos come in bursts (birthdays, journeys) of one owner, in one city, over sixteen years, more
  of them the later it gets; four owners have 55, 25, 15 and 5 % of the events.
- Embeddings (512) are sums of a direction that all pictures share, a theme's, a burst's and noise
  whose spectrum decays: clusters inside of clusters, as CLIP makes them, not uniform noise.
- 45 % of the photos have no text, as in a family's library; the others lognormally many lines.
  Half of the lines are those of the judged set, by Zipf's law; half are made of the words of
  `15_words.sql` as often as Chinese has them, with numbers and dates among them. The tsvector of a
  text is put together from those of its lines: only pairs across a line break are missing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from pg.connect import Connection
from pg.migrate import migrate
from pg.query import fetch_value
from tests.immich.base import load_schema
from tests.judged.judged import texts

DIM = 512
OWNERS = (0.55, 0.25, 0.15, 0.05)
THEMES = 400
PHOTOS_A_BURST = 40
YEARS = (2010, 2026)
CITIES = (
    *("北京", "上海", "广州", "深圳", "杭州", "成都", "西安", "南京", "武汉", "重庆", "苏州"),
    *("天津", "青岛", "厦门", "昆明", "大理", "丽江", "三亚", "桂林", "长沙", "台北", "香港"),
)
CAMERAS = (("Apple", "iPhone 13"), ("HUAWEI", "P40"), ("Canon", "EOS R6"), ("Xiaomi", "13"))
WITHOUT_TEXT = 0.45
LINES = 40_000
CHUNK = 5_000

# One that any change of what is made here must move, so that nobody measures the old library.
FORMAT = 4


@dataclass(frozen=True)
class Library:
    """What the queries are made from.

    Attributes:
        owners: ids, by descending number of photos.
        album: id of an album with 1 % of the photos.
        themes: (THEMES, 512) float32, unit vectors.
    """

    size: int
    seed: int
    owners: list[str]
    album: str
    themes: NDArray[np.float32]

    def probes(self, count: int) -> list[str]:
        """Query embeddings as a text model gives them: at a theme, in a direction of their own."""
        dice = np.random.default_rng([self.seed, 4])
        shared = _unit(dice.normal(size=DIM))
        themes = self.themes[dice.integers(len(self.themes), size=count)]
        probes = _unit(0.5 * shared + 0.7 * themes + 0.3 * _noise(dice, count))
        return [json.dumps([round(float(x), 6) for x in probe]) for probe in probes]


def library(size: int, seed: int) -> Library:
    """What is known of a library without looking into the database."""
    dice = np.random.default_rng([seed, 1])
    return Library(
        size,
        seed,
        owners=[_uuid(seed, f"owner {n}") for n in range(len(OWNERS))],
        album=_uuid(seed, "album"),
        themes=_unit(dice.normal(size=(THEMES, DIM))).astype(np.float32),
    )


def name(size: int, seed: int) -> str:
    """Name of the database that holds it."""
    return f"bench_{size}_{seed}_{FORMAT}"


def fill(
    connection: Connection, size: int, seed: int, progress: Progress, immich: bool = True
) -> None:
    """Fill a database, or go on where an earlier call was stopped.

    Every stage is a transaction. The table ``bench.built`` says which of them are done, and how
    many seconds each took; the large indexes are built after their rows.

    Args:
        immich: Immich's own vector index too, the stage that takes longest.
    """
    made = library(size, seed)
    if not fetch_value(connection, "SELECT to_regclass('bench.built') IS NOT NULL"):
        if fetch_value(connection, "SELECT to_regclass('public.asset') IS NOT NULL"):
            raise SystemExit(
                f"DROP DATABASE {name(size, seed)} first: this is another format, or its very"
                " first seconds were stopped."
            )
        load_schema(connection)
        migrate(connection, "bigram")
        _drop_indexes(connection)
    bursts = _bursts(made)
    burst_of = np.sort(
        np.random.default_rng([seed, 2]).choice(len(bursts.date), size=size, p=bursts.share)
    )
    statements: dict[str, str] = dict(
        connection.execute("SELECT name, statement FROM bench.index").fetchall()
    )

    def index(name: str) -> tuple[str, Callable[[], object]]:
        return name, lambda: connection.execute(statements[name].encode())

    stages: list[tuple[str, Callable[[], object]]] = [
        ("photos", lambda: _assets(connection, made, bursts, burst_of, progress)),
        ("embeddings", lambda: _embeddings(connection, made, bursts, burst_of, progress)),
        index("indexer_v1.clip_embedding_idx"),
        ("texts", lambda: _texts(connection, made, progress)),
        index("indexer_v1.ocr_tsv_idx"),
    ]
    if immich:
        stages.append(index("public.clip_index"))
    done = [_stage(connection, *stage) for stage in progress.track(stages, description="stages")]
    if any(done):
        connection.execute("VACUUM (ANALYZE)")


def _stage(connection: Connection, stage: str, work: Callable[[], object]) -> bool:
    """Whether there was anything left to do."""
    if fetch_value(connection, "SELECT EXISTS (SELECT FROM bench.built WHERE name = %s)", [stage]):
        return False
    with connection.transaction():
        # No jobs, and no look-ups of foreign keys, a million times.
        connection.execute("SET LOCAL session_replication_role = replica")
        work()
        connection.execute(
            "INSERT INTO bench.built"
            " VALUES (%s, extract(epoch FROM clock_timestamp() - transaction_timestamp()))",
            [stage],
        )
    return True


# Photos


@dataclass(frozen=True)
class _Bursts:
    share: NDArray[np.float64]
    date: list[datetime]
    owner: NDArray[np.int64]
    city: NDArray[np.int64]
    theme: NDArray[np.int64]
    seed: NDArray[np.int64]


def _bursts(made: Library) -> _Bursts:
    dice = np.random.default_rng([made.seed, 3])
    count = max(made.size // PHOTOS_A_BURST, 10)
    share = dice.lognormal(sigma=1.2, size=count)
    first, last = (datetime(year, 1, 1, tzinfo=UTC) for year in YEARS)
    when = np.sort(np.sqrt(dice.random(count)))
    cities = 1 / np.arange(1, len(CITIES) + 1)
    themes = 1 / np.arange(1, THEMES + 1) ** 0.7
    return _Bursts(
        share=share / share.sum(),
        date=[first + (last - first) * float(at) for at in when],
        owner=dice.choice(len(OWNERS), size=count, p=OWNERS),
        city=dice.choice(len(CITIES), size=count, p=cities / cities.sum()),
        theme=dice.choice(THEMES, size=count, p=themes / themes.sum()),
        seed=dice.integers(2**31, size=count),
    )


def _assets(
    connection: Connection,
    made: Library,
    bursts: _Bursts,
    burst_of: NDArray[np.int64],
    progress: Progress,
) -> None:
    for number, owner in enumerate(made.owners):
        connection.execute(
            'INSERT INTO "user" (id, email, name) VALUES (%s, %s, %s)',
            [owner, f"{number}@bench", f"owner {number}"],
        )
    connection.execute("INSERT INTO album (id) VALUES (%s)", [made.album])
    dice = np.random.default_rng([made.seed, 5])
    rare = dice.random((3, made.size))
    task = progress.add_task("photos", total=made.size)
    with (
        connection.cursor() as cursor,
        cursor.copy(
            'COPY asset (id, "ownerId", type, "originalPath", "fileCreatedAt", "fileModifiedAt",'
            ' "isFavorite", checksum, "originalFileName", "localDateTime", "checksumAlgorithm",'
            ' visibility, "deletedAt", status) FROM STDIN'
        ) as copy,
    ):
        for number, burst in enumerate(burst_of):
            taken = bursts.date[burst] + timedelta(seconds=number % 7200)
            trashed = rare[1, number] < 0.01
            copy.write_row(
                [
                    _asset(made, number),
                    made.owners[bursts.owner[burst]],
                    "VIDEO" if rare[0, number] < 0.06 else "IMAGE",
                    f"/data/upload/{number}",
                    taken,
                    taken,
                    rare[0, number] > 0.98,
                    hashlib.sha1(str(number).encode(), usedforsecurity=False).digest(),
                    f"IMG_{number}.jpg",
                    taken,
                    "sha1",
                    "archive" if rare[2, number] < 0.03 else "timeline",
                    taken if trashed else None,
                    "trashed" if trashed else "active",
                ]
            )
            progress.advance(task)
    with (
        connection.cursor() as cursor,
        cursor.copy('COPY asset_exif ("assetId", make, model, city, country) FROM STDIN') as copy,
    ):
        for number, burst in enumerate(burst_of):
            camera = CAMERAS[int(bursts.seed[burst]) % len(CAMERAS)]
            copy.write_row([_asset(made, number), *camera, CITIES[bursts.city[burst]], "中国"])
    chosen = dice.choice(made.size, size=made.size // 100, replace=False)
    with (
        connection.cursor() as cursor,
        cursor.copy('COPY album_asset ("albumId", "assetId") FROM STDIN') as copy,
    ):
        for number in chosen:
            copy.write_row([made.album, _asset(made, int(number))])


# Embeddings


def _embeddings(
    connection: Connection,
    made: Library,
    bursts: _Bursts,
    burst_of: NDArray[np.int64],
    progress: Progress,
) -> None:
    dice = np.random.default_rng([made.seed, 6])
    shared = _unit(dice.normal(size=DIM)).astype(np.float32)
    of_burst = _unit(np.random.default_rng([made.seed, 7]).normal(size=(len(bursts.date), DIM)))
    task = progress.add_task("embeddings", total=made.size)
    for start in range(0, made.size, CHUNK):
        burst = burst_of[start : start + CHUNK]
        # A burst has more than one motif.
        theme = np.where(
            dice.random(len(burst)) < 0.7,
            bursts.theme[burst],
            dice.integers(THEMES, size=len(burst)),
        )
        vectors = _unit(
            0.7 * shared
            + 0.45 * made.themes[theme]
            + 0.35 * of_burst[burst]
            + 0.45 * _noise(dice, len(burst))
        )
        ids = b"".join(
            bytes.fromhex(_asset(made, n).replace("-", ""))
            for n in range(start, start + len(burst))
        )
        _copy_clip(connection, ids, vectors)
        _copy_smart_search(connection, ids, vectors)
        progress.advance(task, len(burst))


def _copy_clip(connection: Connection, ids: bytes, vectors: NDArray[np.float64]) -> None:
    # The binary format of COPY, a chunk at a time; of halfvec: dimension, 0, big-endian floats.
    row = np.dtype(
        [
            *(("fields", ">i2"), ("id_size", ">i4"), ("id", "V16")),
            *(("vector_size", ">i4"), ("dim", ">i2"), ("zero", ">i2"), ("vector", ">f2", (DIM,))),
            *(("model_size", ">i4"), ("model", "S5"), ("hash_size", ">i4"), ("hash", "V32")),
        ]
    )
    rows = np.zeros(len(vectors), row)
    rows["fields"], rows["id_size"], rows["vector_size"] = 4, 16, 4 + 2 * DIM
    rows["model_size"], rows["model"], rows["hash_size"] = 5, b"bench", 32
    rows["id"] = np.frombuffer(ids, "V16")
    rows["hash"] = np.frombuffer(
        b"".join(ids[i : i + 16] * 2 for i in range(0, len(ids), 16)), "V32"
    )
    rows["dim"], rows["vector"] = DIM, vectors
    _copy(connection, "indexer_v1.clip (asset_id, embedding, model, content_hash)", rows.tobytes())


def _copy_smart_search(connection: Connection, ids: bytes, vectors: NDArray[np.float64]) -> None:
    row = np.dtype(
        [
            *(("fields", ">i2"), ("id_size", ">i4"), ("id", "V16")),
            *(("vector_size", ">i4"), ("dim", ">i2"), ("zero", ">i2"), ("vector", ">f4", (DIM,))),
        ]
    )
    rows = np.zeros(len(vectors), row)
    rows["fields"], rows["id_size"], rows["vector_size"] = 2, 16, 4 + 4 * DIM
    rows["id"] = np.frombuffer(ids, "V16")
    rows["dim"], rows["vector"] = DIM, vectors
    _copy(connection, 'smart_search ("assetId", embedding)', rows.tobytes())


def _copy(connection: Connection, target: str, rows: bytes) -> None:
    statement = f"COPY {target} FROM STDIN (FORMAT binary)"
    with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8) + rows + b"\xff\xff")


# Texts


def _texts(connection: Connection, made: Library, progress: Progress) -> None:
    lines = _lines(made)
    connection.execute("CREATE TABLE bench.line (n integer PRIMARY KEY, text text, tsv tsvector)")
    with connection.cursor() as cursor, cursor.copy("COPY bench.line (n, text) FROM STDIN") as copy:
        for number, line in enumerate(lines):
            copy.write_row([number, line])
    # A word's impact is that on the whole text, not on a line of it.
    connection.execute(
        """
        CREATE FUNCTION bench.without_impacts(tsv tsvector) RETURNS tsvector LANGUAGE sql AS $$
            SELECT ts_delete(
                tsv, ARRAY(SELECT lexeme FROM unnest(tsv) WHERE starts_with(lexeme, '+')))
        $$
        """
    )
    task = progress.add_task("lines", total=len(lines))
    for start in range(0, len(lines), 1000):
        connection.execute(
            "UPDATE bench.line SET tsv = bench.without_impacts(indexer_v1.to_tsvector(text))"
            " WHERE n BETWEEN %s AND %s",
            [start, start + 999],
        )
        progress.advance(task, 1000)
    connection.execute(
        "CREATE AGGREGATE bench.concat(tsvector)"
        " (sfunc = tsvector_concat, stype = tsvector, initcond = '')"
    )
    connection.execute("CREATE UNLOGGED TABLE bench.text (id uuid, lines integer[])")
    connection.execute("ANALYZE bench.line")
    dice = np.random.default_rng([made.seed, 8])
    judged = len(lines) // 2
    weights = 1 / (np.arange(judged) + 5.0)
    task = progress.add_task("texts", total=made.size)
    for start in range(0, made.size, CHUNK):
        count = min(CHUNK, made.size - start)
        sizes = np.clip(dice.lognormal(1.7, 1.0, size=count), 1, 100).astype(int)
        sizes[dice.random(count) < WITHOUT_TEXT] = 0
        total = int(sizes.sum())
        chosen = np.where(
            dice.random(total) < 0.5,
            dice.choice(judged, size=total, p=weights / weights.sum()),
            judged + dice.integers(len(lines) - judged, size=total),
        )
        parts = np.split(chosen, np.cumsum(sizes)[:-1])
        with (
            connection.cursor() as cursor,
            cursor.copy("COPY bench.text (id, lines) FROM STDIN") as copy,
        ):
            for number, part in enumerate(parts):
                copy.write_row([_asset(made, start + number), part.tolist()])
        connection.execute(_INSERT_TEXTS)
        connection.execute("TRUNCATE bench.text")
        progress.advance(task, count)
    connection.execute("DROP TABLE bench.text")


_INSERT_TEXTS = """
INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model, content_hash)
SELECT t.id, coalesce(made.text, ''), coalesce(made.lines, '[]'),
       coalesce(indexer_v1.with_impacts(made.tsv), ''), indexer_v1.tokenizer(), 'bench',
       sha256(uuid_send(t.id))
FROM bench.text t, LATERAL (
    SELECT string_agg(l.text, E'\\n' ORDER BY c.place) AS text,
           bench.concat(l.tsv ORDER BY c.place) AS tsv,
           jsonb_agg(jsonb_build_object(
               'text', l.text, 'box_score', 0.91, 'text_score', 0.973,
               'box', jsonb_build_array(0.1, c.place * 0.01, 0.7, c.place * 0.01,
                                        0.7, c.place * 0.01 + 0.008, 0.1, c.place * 0.01 + 0.008))
               ORDER BY c.place) AS lines
    FROM unnest(t.lines) WITH ORDINALITY AS c(n, place) JOIN bench.line l USING (n)
) AS made
"""


def _lines(made: Library) -> list[str]:
    """Half: the lines of the judged set, repeated; half: words at their frequency."""
    dice = np.random.default_rng([made.seed, 9])
    judged = list(dict.fromkeys(line for text in texts() for line in text.text.split("\n")))
    dice.shuffle(judged)
    distinct = len(judged)
    words, frequency = _vocabulary()
    while len(judged) < LINES // 2:  # the same lines with other digits in them
        line = judged[int(dice.integers(distinct))]
        judged.append(re.sub(r"\d", lambda _: str(dice.integers(10)), line))
    lines = judged[: LINES // 2]
    sizes = 1 + dice.poisson(2.5, size=LINES - len(lines))
    chosen = dice.choice(len(words), size=int(sizes.sum()), p=frequency)
    for part in np.split(chosen, np.cumsum(sizes)[:-1]):
        line = "".join(words[n] for n in part)
        kind = dice.random()
        if kind < 0.15:
            line += f" {dice.integers(1, 5000) / 10:.2f}"
        elif kind < 0.2:
            year, month, day = (dice.integers(*span) for span in (YEARS, (1, 13), (1, 29)))
            line = f"{year}-{month:02d}-{day:02d} {line}"
        lines.append(line)
    return lines


def _vocabulary() -> tuple[list[str], NDArray[np.float64]]:
    source = (files("pg") / "sql/functions/15_words.sql").read_text("utf-8")
    found = re.search(r"'(\{\"一\":.*?\}\})'", source)
    if not found:
        raise LookupError("15_words.sql has no word costs any more")
    costs = sorted(
        (first + rest, cost)
        for first, words in json.loads(found[1]).items()
        for rest, cost in words.items()
    )
    words = [word for word, _ in costs]
    frequency = 10.0 ** (-np.array([cost for _, cost in costs]) / 10)
    return words, frequency / frequency.sum()


# Indexes


def _drop_indexes(connection: Connection) -> None:
    """Drop the large ones; bench.index has the statements that build them again."""
    with connection.transaction():
        connection.execute("CREATE SCHEMA bench")
        connection.execute("CREATE TABLE bench.built (name text, seconds double precision)")
        connection.execute(
            """
            CREATE TABLE bench.index AS
            SELECT format('%I.%I', schemaname, indexname) AS name, indexdef AS statement
            FROM unnest('{ocr_tsv_idx,clip_embedding_idx,clip_index}'::text[]) AS wanted(indexname)
            JOIN pg_indexes USING (indexname)
            """
        )
        for (index,) in connection.execute("SELECT name FROM bench.index").fetchall():
            connection.execute(f"DROP INDEX {index}".encode())


# Numbers and names


def _uuid(seed: int, thing: str) -> str:
    digits = hashlib.md5(f"{seed} {thing}".encode(), usedforsecurity=False).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _asset(made: Library, number: int) -> str:
    return _uuid(made.seed, f"asset {number}")


def _noise(dice: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Unit vectors, most of them in few directions."""
    return _unit(dice.normal(size=(count, DIM)) / np.sqrt(1 + np.arange(DIM) / 16))


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / lengths
