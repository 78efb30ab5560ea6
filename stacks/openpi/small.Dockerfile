# The small form: any Debian or Ubuntu base with Python 3.11 and venv will do (BASE_IMAGE). The code is stacks/openpi/small, or
# a copy of it elsewhere (build context `checkout`).
ARG BASE_IMAGE=python:3.11-slim-bookworm@sha256:528257d48c1da0dcecc2e725d1ae34498d60c965f1241e39cd6a85a8859bdf84
# How long pip waits for a package index that says nothing; its own 15 seconds are too few for a busy one.
ARG PIP_DEFAULT_TIMEOUT=120

FROM ${BASE_IMAGE} AS base
ENV PATH=/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app/src \
    OPENPI_DATA_HOME=/openpi_assets

# A pip.conf and a CA bundle come in as build secrets where a site has its own package index.
FROM base AS packages
COPY --from=checkout requirements.txt /tmp/requirements.txt
ARG PIP_DEFAULT_TIMEOUT
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/run/ca_bundle \
    if [ -s /run/ca_bundle ]; then export PIP_CERT=/run/ca_bundle; fi; \
    python3 -m venv /venv \
    && pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes -r /tmp/requirements.txt

# Packages only: the code is mounted when it runs.
FROM base AS mounted
COPY --from=packages /venv /venv
COPY entry.sh ask.py /usr/local/lib/openpi-stack/
WORKDIR /data
EXPOSE 8000

# The code is part of the image.
FROM mounted AS baked
ARG CODE_VERSION=
COPY --from=checkout . /app
LABEL org.opencontainers.image.revision=${CODE_VERSION}
