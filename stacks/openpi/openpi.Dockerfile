# The form openpi: a checkout of openpi (build context `checkout`), on the base that openpi itself builds on.
# Its policy server, its training and its simple client run in this image.
ARG CUDA_BASE_IMAGE=nvidia/cuda:12.2.2-cudnn8-runtime-ubuntu22.04@sha256:2d913b09e6be8387e1a10976933642c73c840c0b735f0bf3c28d97fc9bc422e0
ARG UV_IMAGE=ghcr.io/astral-sh/uv:0.5.1

FROM ${UV_IMAGE} AS uv

FROM ${CUDA_BASE_IMAGE} AS mounted
RUN --mount=type=bind,from=checkout,target=/checkout \
    if [ ! -f /checkout/scripts/serve_policy.py ] || [ ! -f /checkout/uv.lock ]; then \
        echo "OPENPI_SOURCE is not a checkout of openpi: it has no scripts/serve_policy.py or no uv.lock" >&2; exit 1; \
    fi
RUN --mount=type=bind,from=uv,target=/from-uv cp /from-uv/uv /from-uv/uvx /usr/local/bin/
RUN --mount=type=secret,id=apt_conf,target=/etc/apt/apt.conf.d/99site \
    apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        build-essential ca-certificates clang git git-lfs linux-libc-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app
# The environment is outside /app, where the mounted checkout would hide it.
ENV UV_PROJECT_ENVIRONMENT=/venv \
    UV_LINK_MODE=copy \
    UV_PYTHON_INSTALL_DIR=/opt/python \
    GIT_LFS_SKIP_SMUDGE=1 \
    PATH=/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
RUN --mount=type=bind,from=checkout,target=/checkout \
    cp /checkout/pyproject.toml /checkout/uv.lock /app/ \
    && mkdir -p /app/packages && cp -r /checkout/packages/openpi-client /app/packages/
RUN --mount=type=secret,id=uv_conf,target=/etc/uv/uv.toml \
    --mount=type=secret,id=ca_bundle,target=/run/ca_bundle \
    if [ -s /run/ca_bundle ]; then export SSL_CERT_FILE=/run/ca_bundle GIT_SSL_CAINFO=/run/ca_bundle; fi; \
    uv venv --python 3.11.9 /venv \
    && uv sync --frozen --no-install-project --no-dev --no-cache
# openpi replaces some files of transformers with its own.
RUN --mount=type=bind,from=checkout,target=/checkout \
    cp -r /checkout/src/openpi/models_pytorch/transformers_replace/. /venv/lib/python3.11/site-packages/transformers/

# A home in memory: what JAX, triton and matplotlib keep for themselves goes there.
ENV OPENPI_DATA_HOME=/openpi_assets \
    IS_DOCKER=true \
    NEEDS_GPU=1 \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app/src
COPY entry.sh ask.py /usr/local/lib/openpi-stack/
WORKDIR /data
EXPOSE 8000

FROM mounted AS baked
ARG CODE_VERSION=
COPY --from=checkout . /app
LABEL org.opencontainers.image.revision=${CODE_VERSION}
