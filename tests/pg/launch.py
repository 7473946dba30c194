"""Run an embedded server in a process of its own: ``launch.py UID GID DATA_DIR``.

Prints the URL, then waits for a line on its input and stops the server.
Becomes the user only after its imports: the interpreter may be where that user can't read.
"""

import encodings.idna  # noqa: F401 - psycopg asks for it when it connects
import os
import sys
from pathlib import Path

from pg.embedded import Server, ServerError

uid, gid, data_dir = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
if uid != os.geteuid():
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
server = Server(data_dir)
try:
    sys.stdout.write(server.start() + "\n")
except ServerError as error:
    sys.exit(f"{error}")
sys.stdout.flush()
sys.stdin.readline()
server.stop()
