"""A real nginx with the proxy's configuration."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPLATE = Path(__file__).parents[1] / "compose" / "proxy" / "default.conf.template"
NO_NGINX = "no nginx: apt-get install nginx-light"

# What the image's own nginx.conf does, in the foreground.
NGINX_CONF = """
daemon off;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/default.conf;
}}
"""


def has_nginx() -> bool:
    return shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin") is not None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_nginx(folder: Path, gateway: str, immich: str) -> Iterator[int]:
    """nginx with the template filled in, as the image's entry point does. Yields its port."""
    port = free_port()
    text = TEMPLATE.read_text("utf-8")
    for variable, value in {
        "${GATEWAY_ADDRESS}": gateway,
        "${IMMICH_ADDRESS}": immich,
        "${NGINX_LOCAL_RESOLVERS}": f"127.0.0.1:{free_port()}",  # nobody there
        "listen 8080": f"listen 127.0.0.1:{port}",
        "/dev/stdout": f"{folder}/access.log",
    }.items():
        assert variable in text
        text = text.replace(variable, value)
    (folder / "default.conf").write_text(text, "utf-8")
    # Started by root it would become another user, whom pytest's folders are closed to.
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(NGINX_CONF.format(folder=folder, user=user), "utf-8")
    command = ["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    environment = {"PATH": "/usr/sbin:/usr/bin:/usr/local/bin"}
    check = subprocess.run(
        [*command, "-t"], env=environment, capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stderr
    with subprocess.Popen(command, env=environment) as process:
        try:
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield port
        finally:
            process.terminate()
