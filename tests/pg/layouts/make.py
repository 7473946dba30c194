"""Makes a dump of a database in the layout of a checkout, with some data in every table.

When a new migration is added, dump the layout before it, as the last release made it:

    git worktree add ../release <its tag>
    PYTHONPATH=../release:../release/tests python tests/pg/layouts/make.py 002

That writes 002.sql.gz beside this file, and test_upgrades.py picks it up. A dump is never made
again: it stands for the databases that people have. 001 is the commit 5a1a3d7 with the migration
as it was released; 002 is the commit 1381644.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg

from immich.base import load_schema
from pg import _host
from pg.embedded import Server
from pg.migrate import migrate

HERE = Path(__file__).parent

# Of every kind of row one that is easily recognised. Columns of 001 only, unless the table is
# newer; what later layouts add is filled where it is there.
DATA = """
INSERT INTO "user" (id, email, name)
VALUES ('00000000-0000-0000-0000-00000000000a', 'a@example.com', 'A');

INSERT INTO asset (id, "ownerId", type, "originalPath", "originalFileName", "fileCreatedAt",
                   "fileModifiedAt", "localDateTime", checksum, "checksumAlgorithm")
SELECT ('00000000-0000-0000-0000-00000000000' || n)::uuid, '00000000-0000-0000-0000-00000000000a',
       'IMAGE', '/data/upload/' || n || '.jpg', n || '.jpg', '2026-01-01', '2026-01-01',
       '2026-01-01', sha256(n::text::bytea), 'sha1'
FROM generate_series(1, 5) AS n;

INSERT INTO asset_file ("assetId", type, path)
SELECT id, 'preview', '/data/thumbs/' || right(id::text, 1) || '_preview.jpeg' FROM asset;

SELECT indexer_v1.use_clip_model('stand-in', 4);

-- 1 and 2 are done, 3 waits, 4 is running, 5 is dead.
DELETE FROM indexer_v1.job
WHERE asset_id IN ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000002');
UPDATE indexer_v1.job SET attempts = 1, lease_until = '2026-01-01',
    lease_token = '00000000-0000-0000-0000-0000000000ff'
WHERE asset_id = '00000000-0000-0000-0000-000000000004';
UPDATE indexer_v1.job SET attempts = 3, dead_at = '2026-01-01', last_error = 'damaged JPEG file'
WHERE asset_id = '00000000-0000-0000-0000-000000000005';

INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model, content_hash)
SELECT id, text, jsonb_build_array(jsonb_build_object(
           'text', text, 'box', '[0,0,1,0,1,1,0,1]'::jsonb, 'box_score', 0.9, 'text_score', 0.8)),
       indexer_v1.to_tsvector(text), indexer_v1.tokenizer(), 'reader', sha256(text::bytea)
FROM (VALUES ('00000000-0000-0000-0000-000000000001'::uuid, '增值稅普通發票 88.00'),
             ('00000000-0000-0000-0000-000000000002', '出口 EXIT')) AS read(id, text);

INSERT INTO indexer_v1.clip (asset_id, embedding, model, content_hash)
VALUES ('00000000-0000-0000-0000-000000000001', '[1,0,0,0]', 'stand-in', sha256('1')),
       ('00000000-0000-0000-0000-000000000002', '[0,1,0,0]', 'stand-in', sha256('2'));

INSERT INTO indexer_v1.reprocess (asset_id, task)
VALUES ('00000000-0000-0000-0000-000000000003', 'ocr'),
       ('00000000-0000-0000-0000-0000000000ee', 'all');

INSERT INTO indexer_v1.worker (id, host, pid, device)
VALUES ('00000000-0000-0000-0000-0000000000cc', 'nas', 7, 'cpu');
"""

LATER = {
    "indexer_v1.inference": """
        INSERT INTO indexer_v1.inference (content_hash, model, lines)
        VALUES (sha256('3'), 'reader', '[]')
        """,
    "indexer_v1.write_back": """
        INSERT INTO indexer_v1.write_back (asset_id, what)
        VALUES ('00000000-0000-0000-0000-000000000001', 'ocr')
        """,
}


def main(layout: str) -> None:
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder)) as server:
        url = server.start()
        with psycopg.connect(url, autocommit=True) as connection:
            load_schema(connection)
            migrate(connection)
            connection.execute(DATA.encode())
            for table, statement in LATER.items():
                row = connection.execute("SELECT to_regclass(%s)", [table]).fetchone()
                if row and row[0]:
                    connection.execute(statement.encode())
        pg_dump = _host.binaries(None, None) / "pg_dump"
        dump = subprocess.run(
            [pg_dump, "--no-owner", "--no-privileges", "--dbname", url],
            check=True,
            capture_output=True,
        ).stdout
    (HERE / f"{layout}.sql.gz").write_bytes(gzip.compress(dump, 9, mtime=0))


if __name__ == "__main__":
    main(sys.argv[1])
