# Gateway, worker and command line in one image. PyTorch for the CPU, or with CUDA:
#
#   docker build -t immich-indexer:0.1.0 .
#   docker build -t immich-indexer:0.1.0-cuda --build-arg DEVICE=cuda .
#
# Beside Immich: compose/. A folder of photos alone, which is for this computer only:
#
#   docker run --rm --network host -e HOST=127.0.0.1 -v ~/Pictures:/photos:ro \
#     -e PHOTOS_DIR=/photos -v indexer-models:/models -v indexer-data:/var/lib/immich-indexer \
#     immich-indexer:0.1.0

ARG PYTHON=3.12.13-slim-bookworm

FROM docker.io/library/python:${PYTHON} AS build

# lmdb, which cn-clip asks for, has no wheel for this Python: it is patched and compiled.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev patch \
    && rm -rf /var/lib/apt/lists/*

RUN python -m venv /opt/immich-indexer
ENV PATH=/opt/immich-indexer/bin:${PATH} \
    PIP_CACHE_DIR=/var/cache/pip \
    PIP_DISABLE_PIP_VERSION_CHECK=1

ARG DEVICE=cpu
# PyTorch publishes its builds without CUDA on an index of its own: 0.2 GB instead of 5. Where it
# can't be reached, name a mirror of it.
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /src
COPY constraints.txt ./
# --no-deps: that index has only some versions of what PyTorch depends on; the project's own
# installation below brings them.
RUN --mount=type=cache,target=/var/cache/pip \
    case "${DEVICE}" in \
        cpu) pip install --no-deps --index-url "${TORCH_CPU_INDEX}" -c constraints.txt \
                 torch torchvision ;; \
        cuda) pip install -c constraints.txt torch torchvision ;; \
        *) echo "DEVICE is cpu or cuda, not '${DEVICE}'" >&2; exit 2 ;; \
    esac

COPY . .
# EXTRAS=faces: faces are found here (FACES=insightface) instead of by Immich's own server.
ARG EXTRAS=
RUN --mount=type=cache,target=/var/cache/pip \
    pip install -c constraints.txt ".${EXTRAS:+[${EXTRAS}]}"


FROM docker.io/library/python:${PYTHON}

LABEL org.opencontainers.image.title="immich-indexer" \
      org.opencontainers.image.description="Chinese picture and text search for self-hosted Immich" \
      org.opencontainers.image.licenses="MIT"

# OpenCV needs libGL and GLib. tini passes SIGTERM on, also before Python listens to it, and reaps
# the processes of the embedded PostgreSQL.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 indexer \
    && useradd --uid 1000 --gid 1000 --home-dir /var/lib/immich-indexer --no-create-home \
        --shell /usr/sbin/nologin indexer \
    && install --directory --owner=1000 --group=1000 /models /var/lib/immich-indexer

COPY --from=build /opt/immich-indexer /opt/immich-indexer

# Nothing else is written to: the root file system may be read-only, with a tmpfs at /tmp.
ENV PATH=/opt/immich-indexer/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    HOST=0.0.0.0 \
    PORT=3003 \
    CLIP_DOWNLOAD_ROOT=/models \
    INSIGHTFACE_HOME=/models/insightface \
    DATA_DIR=/var/lib/immich-indexer \
    HF_HOME=/models/.huggingface

# A number, so that Kubernetes can tell that it isn't root.
USER 1000:1000
WORKDIR /var/lib/immich-indexer
VOLUME ["/models"]
EXPOSE 3003

# For `serve` and `gateway`; a worker has none of these: switch it off there.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:${PORT}/health/live', timeout=4)"

ENTRYPOINT ["tini", "--", "immich-indexer"]
CMD ["serve"]
