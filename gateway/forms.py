"""Multipart bodies, read into memory.

Litestar's own form parsing writes every file over 1 MB to disk, chunk by chunk; here the body is
read once (it may have to be passed on untouched) and its parts are cut out of it, by the same
parser that Litestar uses.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from multipart import (  # type: ignore[import-untyped]
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
)

from gateway.errors import AnyRequest, Unprocessable

_MAX_PARTS = 16


async def read_form(request: AnyRequest) -> dict[str, bytes]:
    """Return the parts of a ``multipart/form-data`` body by name; of equal names, the last.

    Raises:
        Unprocessable: another content type, or damaged.
        HTTPException: 413 above the route's limit, 408 when it doesn't arrive in time.
    """
    content_type, options = request.content_type
    if content_type != "multipart/form-data" or not options.get("boundary"):
        raise Unprocessable(
            f"Send multipart/form-data with a boundary, not {content_type or 'an unnamed type'!r}."
        )
    body = await request.body()
    parts: dict[str, bytes] = {}
    name, content = "", b""
    try:
        with PushMultipartParser(options["boundary"], max_segment_count=_MAX_PARTS) as parser:
            for event in parser.parse(body):
                if isinstance(event, MultipartSegment):
                    name, content = event.name, b""
                elif event is None:
                    parts[name] = content
                else:  # the whole body is one chunk, so a part is one piece
                    content = bytes(event)
    except MultipartError as error:
        raise Unprocessable(f"The multipart body is damaged: {error}.") from None
    return parts


def write_form(parts: Mapping[str, bytes]) -> tuple[bytes, str]:
    """Build a multipart body in Immich's framing; returns it and its content type.

    A part named ``image`` or ``file`` is sent as a file, like Immich's ``blob``.
    """
    boundary = f"----immich-indexer-{secrets.token_hex(16)}"
    pieces: list[bytes] = []
    for name, content in parts.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'
        if name in {"image", "file"}:
            head += '; filename="blob"\r\nContent-Type: application/octet-stream'
        pieces += [head.encode(), b"\r\n\r\n", content, b"\r\n"]
    pieces.append(f"--{boundary}--\r\n".encode())
    return b"".join(pieces), f"multipart/form-data; boundary={boundary}"
