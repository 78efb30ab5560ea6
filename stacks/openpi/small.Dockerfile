# The small policy server: any Debian or Ubuntu base with Python 3.11 and venv will do (BASE_IMAGE).
ARG BASE_IMAGE=python:3.11-slim-bookworm@sha256:528257d48c1da0dcecc2e725d1ae34498d60c965f1241e39cd6a85a8859bdf84

FROM ${BASE_IMAGE} AS base
ENV PATH=/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

# A pip.conf and a CA bundle come in as build secrets where a site has its own package index.
FROM base AS packages
COPY small/requirements.txt /tmp/requirements.txt
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/run/ca_bundle \
    if [ -s /run/ca_bundle ]; then export PIP_CERT=/run/ca_bundle; fi; \
    python3 -m venv /venv \
    && pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes -r /tmp/requirements.txt

FROM base
COPY --from=packages /venv /venv
COPY small/serve.py small/policy.py /app/
WORKDIR /app
ENV OPENPI_DATA_HOME=/openpi_assets
EXPOSE 8000
CMD ["python3", "serve.py"]
