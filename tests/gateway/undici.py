"""Requests with the bytes that Immich's server sends: Node's fetch (undici) and its multipart.

Run as a script, it writes the captures in ``tests/data/captures``: the stock requests of
Immich 3.1, with a smaller picture.
"""

import json
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image

CAPTURES = Path(__file__).parents[1] / "data" / "captures"
SAMPLES = Path(__file__).parents[2] / "immich_indexer/samples"

BOUNDARY = "----formdata-undici-058332862088"


def form(
    entries: object,
    image: bytes | None = None,
    text: str | bytes | None = None,
    boundary: str = BOUNDARY,
) -> bytes:
    """Return a multipart body as undici frames it."""
    raw = (
        entries
        if isinstance(entries, bytes)
        else json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    )
    parts = [("", "entries", raw)]
    if image is not None:
        head = '; filename="blob"\r\nContent-Type: application/octet-stream'
        parts.append((head, "image", image))
    if text is not None:
        parts.append(("", "text", text.encode() if isinstance(text, str) else text))
    pieces = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{head}\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for head, name, content in parts
    ]
    return b"".join(pieces) + f"--{boundary}--\r\n".encode()


def content_type(boundary: str = BOUNDARY) -> str:
    """Return the content type of a body made by `form`."""
    return f"multipart/form-data; boundary={boundary}"


def request(body: bytes) -> bytes:
    """Return a whole ``POST /predict``, with the headers in Immich's order."""
    head = (
        "POST /predict HTTP/1.1\r\n"
        "host: 127.0.0.1:3903\r\n"
        "connection: keep-alive\r\n"
        "User-Agent: immich-server/3.1.0\r\n"
        f"content-type: {content_type()}\r\n"
        "accept: */*\r\n"
        "accept-language: *\r\n"
        "sec-fetch-mode: cors\r\n"
        "accept-encoding: gzip, deflate\r\n"
        f"content-length: {len(body)}\r\n"
        "\r\n"
    )
    return head.encode() + body


def preview(name: str, size: tuple[int, int]) -> bytes:
    """Return a sample photo as Immich would show it: JPEG, quality 80."""
    image = Image.open(SAMPLES / name).convert("RGB")
    image.thumbnail(size)
    out = BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()


FACES = {
    "facial-recognition": {
        "detection": {"modelName": "buffalo_l", "options": {"minScore": 0.7}},
        "recognition": {"modelName": "buffalo_l"},
    }
}
OCR = {
    "ocr": {
        "detection": {
            "modelName": "PP-OCRv5_mobile",
            "options": {"minScore": 0.5, "maxResolution": 736},
        },
        "recognition": {"modelName": "PP-OCRv5_mobile", "options": {"minScore": 0.8}},
    }
}
LEGACY_OCR = {"ocr": {"recognition": {"modelName": "ocr"}}}


def visual(name: str) -> dict[str, object]:
    """Return the entries that ask for an image's embedding."""
    return {"clip": {"visual": {"modelName": name}}}


def textual(name: str, language: str | None = None) -> dict[str, object]:
    """Return the entries that ask for a text's embedding."""
    options = {"language": language} if language else {}
    return {"clip": {"textual": {"modelName": name, "options": options}}}


def write_captures() -> None:
    """Write the files in ``tests/data/captures``."""
    picture = preview("shape-red-circle-exit.jpg", (640, 640))
    bodies = {
        "clip-visual": form(visual("ViT-B-32__openai"), picture),
        "clip-visual_prefixed": form(visual("cn-clip/ViT-B-16__openai"), picture),
        "clip-textual_lang": form(textual("ViT-B-32__openai", "zh-CN"), text="红色的圆 invoice"),
        "clip-textual_lang_prefixed": form(
            textual("cn-clip/ViT-L-14__openai", "en-US"), text="发票 invoice"
        ),
        "clip-textual_nolang_prefixed": form(textual("cn-clip/ViT-B-16__openai"), text="猫"),
        "facial-recognition-detection+recognition": form(FACES, picture),
        "ocr-detection+recognition": form(OCR, picture),
        "ocr-legacy": form(LEGACY_OCR, picture),
    }
    CAPTURES.mkdir(parents=True, exist_ok=True)
    for name, body in bodies.items():
        (CAPTURES / f"{name}.raw").write_bytes(request(body))
    ping = b"GET /ping HTTP/1.1\r\n" + request(b"").split(b"\r\n", 1)[1]
    lines = [line for line in ping.split(b"\r\n") if not line.lower().startswith(b"content-")]
    (CAPTURES / "ping.raw").write_bytes(b"\r\n".join(lines))


if __name__ == "__main__":
    sys.exit(write_captures())
