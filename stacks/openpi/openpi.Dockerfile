# openpi's own policy server, from a checkout (build context `checkout`) that is mounted at /app when it runs.
# Only the packages of its lock file are in the image, so that its code can be edited without a build.
# The default base is the one that openpi builds on.
ARG BASE_IMAGE=nvidia/cuda:12.2.2-cudnn8-runtime-ubuntu22.04@sha256:2d913b09e6be8387e1a10976933642c73c840c0b735f0bf3c28d97fc9bc422e0
ARG UV_IMAGE=ghcr.io/astral-sh/uv:0.5.1

FROM ${UV_IMAGE} AS uv

FROM ${BASE_IMAGE}
COPY --from=uv /uv /uvx /usr/local/bin/
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        build-essential ca-certificates clang git git-lfs linux-libc-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app
# Outside /app, where the mounted checkout would hide it.
ENV UV_PROJECT_ENVIRONMENT=/venv \
    UV_LINK_MODE=copy \
    GIT_LFS_SKIP_SMUDGE=1 \
    PATH=/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
COPY --from=checkout pyproject.toml uv.lock /app/
COPY --from=checkout packages/openpi-client /app/packages/openpi-client
RUN uv venv --python 3.11.9 /venv \
    && uv sync --frozen --no-install-project --no-dev
# openpi replaces some files of transformers with its own.
COPY --from=checkout src/openpi/models_pytorch/transformers_replace /tmp/transformers_replace
RUN cp -r /tmp/transformers_replace/. /venv/lib/python3.11/site-packages/transformers/ \
    && rm -r /tmp/transformers_replace

ENV OPENPI_DATA_HOME=/openpi_assets \
    IS_DOCKER=true \
    PYTHONPATH=/app/src
EXPOSE 8000
CMD ["/bin/bash", "-c", "exec uv run --no-sync scripts/serve_policy.py $SERVER_ARGS"]
