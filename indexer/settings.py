"""All settings, read once from environment variables and passed down.

Nothing else in the product reads ``os.environ``. The README's table of settings is checked
against the descriptions here by a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

import msgspec
from msgspec import Meta

SECRET_FIELDS = frozenset(
    {"db_url", "search_db_url", "db_password", "api_key", "ml_key", "previews_key"}
)


class SettingsError(ValueError):
    """An environment variable has a value that can't be used; the message says which and why."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One field per environment variable: the field's name in upper case."""

    # Where the data is
    db_url: Annotated[
        str, Meta(description="PostgreSQL URL of Immich's database. Empty: see `DB_HOSTNAME`.")
    ] = ""
    db_hostname: Annotated[
        str,
        Meta(
            description="Immich's own variable, used when `DB_URL` is empty. Both empty: folder "
            "mode, with the embedded server."
        ),
    ] = ""
    db_port: Annotated[int, Meta(description="Immich's own variable.")] = 5432
    db_username: Annotated[str, Meta(description="Immich's own variable.")] = "postgres"
    db_password: Annotated[str, Meta(description="Immich's own variable.")] = "postgres"  # noqa: S105
    db_database_name: Annotated[str, Meta(description="Immich's own variable.")] = "immich"
    search_db_url: Annotated[
        str,
        Meta(
            description="URL of a streaming replica to search on. While it is away, or more than "
            "five seconds behind, the primary is searched. Empty: always."
        ),
    ] = ""
    data_dir: Annotated[
        Path,
        Meta(description="Folder mode: where the embedded server and the small previews live."),
    ] = Path(".data")
    photos_dir: Annotated[
        Path | None, Meta(description="Folder mode: the photos. Empty: the shipped samples.")
    ] = None
    pg_bin: Annotated[
        Path | None,
        Meta(
            description="Folder mode: `bin` folder of another PostgreSQL (with pgvector), e.g. "
            "`/usr/lib/postgresql/16/bin`."
        ),
    ] = None
    media_map: Annotated[
        str,
        Meta(
            description="Where Immich's media folder is mounted here, as `THERE=HERE`, several "
            "separated by `;`, e.g. `/data=/mnt/immich`. Empty: the same path."
        ),
    ] = ""
    previews_url: Annotated[
        str,
        Meta(
            description="For a worker without the media folder: the gateway that it fetches "
            "previews from, e.g. `http://192.168.1.10:3003`."
        ),
    ] = ""
    previews_key: Annotated[
        str,
        Meta(
            pattern=r"^([A-Za-z0-9_-]{16,})?$",
            description="Key that such workers send and the gateway asks for: 16 or more of "
            "`A-Z a-z 0-9 _ -`. Empty: the gateway serves no previews.",
        ),
    ] = ""
    tokenizer: Annotated[
        Literal["auto", "zhparser", "bigram"],
        Meta(
            description="`auto`: zhparser where `CREATE EXTENSION zhparser` has been run, bigrams "
            "elsewhere."
        ),
    ] = "auto"

    # Models
    clip_model: Annotated[
        str,
        Meta(
            description="`ViT-B-16`, `ViT-L-14`, `ViT-L-14-336`, `ViT-H-14`, `RN50`, or "
            "`stand-in` (knows coloured shapes only; for tests)."
        ),
    ] = "ViT-B-16"
    clip_download_root: Annotated[
        Path, Meta(description="Where the CLIP weights are, and are downloaded to.")
    ] = Path("~/.cache/clip")
    clip_download: Annotated[
        Literal["huggingface", "modelscope", "off"],
        Meta(description="Where missing CLIP weights are fetched from."),
    ] = "huggingface"
    faces: Annotated[
        Literal["auto", "insightface", "forward", "off"],
        Meta(
            description="`insightface`: found here (`pip install '.[faces]'`). `forward`: passed "
            "on to `IMMICH_API`. `auto`: forward where that is set, else off."
        ),
    ] = "auto"
    insightface_home: Annotated[
        Path,
        Meta(
            description="Where InsightFace's models are: `models/buffalo_l/*.onnx` and the like. "
            "None are downloaded."
        ),
    ] = Path("~/.insightface")
    device: Annotated[
        str, Meta(description="`auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:1`, …")
    ] = "auto"
    threads: Annotated[
        int, Meta(ge=0, description="CPU threads for inference. 0: all the cores.")
    ] = 0
    precision: Annotated[
        Literal["auto", "exact"],
        Meta(
            description="`auto`: the CPU computes in bf16 where it can and a check of every model "
            "passes; a GPU in fp16. `exact`: the CPU computes in f32. What is stored stays."
        ),
    ] = "auto"
    openvino: Annotated[
        Literal["auto", "off"],
        Meta(
            description="`auto`: models run through OpenVINO on the CPU where it is installed. "
            "`off`: through PyTorch and ONNX Runtime."
        ),
    ] = "auto"
    preload: Annotated[
        Literal["none", "text", "all"],
        Meta(
            description="What `serve`, `gateway` and `worker` load when they start, not when it is "
            "first needed: `text`, what embeds queries; `all`, everything but faces."
        ),
    ] = "none"
    ocr_idle_seconds: Annotated[
        float,
        Meta(ge=0, description="The OCR models leave memory after this long idle. 0: never."),
    ] = 0.0
    clip_image_idle_seconds: Annotated[
        float,
        Meta(
            ge=0, description="What embeds pictures leaves memory after this long idle. 0: never."
        ),
    ] = 0.0
    clip_text_idle_seconds: Annotated[
        float,
        Meta(ge=0, description="What embeds queries leaves it after this long idle. 0: never."),
    ] = 0.0
    ocr_model: Annotated[
        str,
        Meta(
            description="`PP-OCRv4`, `PP-OCRv6` (`pip install '.[ocr-v6]'`), or a folder with "
            "`det.onnx`, `rec.onnx` and, where that doesn't hold its characters, `keys.txt`. A "
            "change reads all photos again."
        ),
    ] = "PP-OCRv4"
    ocr_min_box_score: Annotated[
        float, Meta(ge=0, le=1, description="Text boxes below this are dropped when indexing.")
    ] = 0.5
    ocr_min_text_score: Annotated[
        float, Meta(ge=0, le=1, description="Lines read below this are dropped when indexing.")
    ] = 0.5
    ocr_max_resolution: Annotated[
        int,
        Meta(
            ge=32,
            description="Short side, in pixels, that text is looked for at first; where it is "
            "small or doubtful, again at up to 1440.",
        ),
    ] = 736

    # Beside Immich
    write_back: Annotated[
        Literal["on", "off"],
        Meta(
            description="Write redone results to Immich's own `smart_search`, `asset_ocr` and "
            "`ocr_search` as well."
        ),
    ] = "on"
    mend: Annotated[
        Literal["on", "off"],
        Meta(
            description="Mend stock defects: `ocr_search` emptied or stripped by thumbnails and "
            "edits, edited photos without an embedding."
        ),
    ] = "on"

    # Worker
    batch_size: Annotated[
        int, Meta(ge=1, le=256, description="Photos a worker claims at once.")
    ] = 16
    lease_seconds: Annotated[
        float, Meta(ge=1, description="A claimed job is free again after this long unrenewed.")
    ] = 120.0
    max_attempts: Annotated[
        int, Meta(ge=1, description="A job that failed this often is dead until requeued.")
    ] = 3
    poll_seconds: Annotated[
        float, Meta(gt=0, description="How often a worker looks for jobs without being told.")
    ] = 15.0

    # Limits
    max_image_bytes: Annotated[int, Meta(ge=1, description="Largest image file, in bytes.")] = (
        200_000_000
    )
    max_image_pixels: Annotated[
        int, Meta(ge=1, description="Largest image, in pixels, checked before decoding.")
    ] = 200_000_000

    max_image_seconds: Annotated[
        float,
        Meta(
            ge=1,
            description="Longest that decoding, reading or embedding one image may take. What "
            "takes longer fails; a process that hangs starts itself anew.",
        ),
    ] = 120.0
    max_requests: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="Requests with a picture that the gateway takes at once, together no "
            "larger than two of `MAX_IMAGE_BYTES`. More wait, unread, in the order they came.",
        ),
    ] = 16
    max_waiting_requests: Annotated[
        int,
        Meta(
            ge=0,
            description="So many of them may wait; more are answered 503 with `Retry-After`.",
        ),
    ] = 256
    max_wait_seconds: Annotated[
        float,
        Meta(
            ge=1,
            description="Longest that one of them may wait; then it is answered the same. With the "
            "inference after it, below the 300 s that Immich waits.",
        ),
    ] = 240.0
    max_body_seconds: Annotated[
        float,
        Meta(ge=1, description="Longest that the body of a request may take to arrive."),
    ] = 120.0
    max_pause_seconds: Annotated[
        float,
        Meta(
            ge=1,
            description="Longest that a body may stop coming, and that a request's head may take.",
        ),
    ] = 20.0
    max_connections: Annotated[
        int,
        Meta(
            ge=8,
            description="Connections to the gateway at once; on more it answers 503 with "
            "`Retry-After`.",
        ),
    ] = 512
    max_query_length: Annotated[
        int,
        Meta(
            ge=1,
            le=2000,
            description="Longest query, in characters. Longer ones in Immich's own search box are "
            "left to Immich.",
        ),
    ] = 500
    max_page_size: Annotated[  # the page itself asks for 60
        int, Meta(ge=60, le=1000, description="Most results in one answer of a search.")
    ] = 200

    # Gateway
    host: Annotated[str, Meta(description="Address the gateway listens on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port the gateway listens on.")] = 3003
    metrics_port: Annotated[
        int,
        Meta(
            ge=0,
            le=65535,
            description="Port on which `worker` serves `/metrics`, at `HOST`; the gateway has them "
            "on its own. 0: none.",
        ),
    ] = 0
    ml_key: Annotated[
        str,
        Meta(
            pattern=r"^([A-Za-z0-9_-]{16,})?$",
            description="Key in the path of Immich's machine-learning URL, "
            "`http://immich-indexer:3003/<key>/` (with the slash at the end), where others reach "
            "the port too: 16 or more of `A-Z a-z 0-9 _ -`. Empty: no key.",
        ),
    ] = ""
    immich_api: Annotated[
        str,
        Meta(
            description="Immich's own machine-learning server, for faces and whatever else isn't "
            "done here. Empty: none."
        ),
    ] = ""
    immich_url: Annotated[
        str,
        Meta(
            description="Immich's own server, e.g. `http://immich-server:2283` (not the proxy in "
            "front of it): says who is searching, and shows what its own search box finds. Needed "
            "for searching in attached mode."
        ),
    ] = ""
    api_key: Annotated[
        str,
        Meta(description="Key that MT Photos must send (`api-key`). Empty: MT Photos' API is off."),
    ] = ""
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="How much is logged.")
    ] = "info"

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Build from environment variables; empty values count as unset.

        Raises:
            SettingsError: a value has the wrong form; says which variable and what it takes.
        """
        given = {
            field.name: env[field.name.upper()]
            for field in msgspec.structs.fields(cls)
            if env.get(field.name.upper())
        }
        try:
            return msgspec.convert(
                given, cls, strict=False, dec_hook=lambda kind, value: kind(value)
            )
        except msgspec.ValidationError as error:
            text = str(error)
            for name in sorted(given, key=len, reverse=True):
                text = text.replace(f"$.{name}", name.upper())
            raise SettingsError(f"{text}. See the table of settings in the README.") from None

    @property
    def attached(self) -> bool:
        """True where a database is named (Immich's), False in folder mode."""
        return bool(self.db_url or self.db_hostname)

    @property
    def faces_by(self) -> Literal["insightface", "forward", "off"]:
        """Who finds faces."""
        if self.faces == "auto":
            return "forward" if self.immich_api else "off"
        return self.faces

    @property
    def database_url(self) -> str:
        """URL of the named database. Only in attached mode."""
        if self.db_url:
            return self.db_url
        user, password = quote(self.db_username, safe=""), quote(self.db_password, safe="")
        name = quote(self.db_database_name, safe="")
        return f"postgresql://{user}:{password}@{self.db_hostname}:{self.db_port}/{name}"

    def __repr__(self) -> str:
        shown = {
            field.name: "***" if field.name in SECRET_FIELDS else getattr(self, field.name)
            for field in msgspec.structs.fields(self)
        }
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"
