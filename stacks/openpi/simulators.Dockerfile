# The simulators of openpi's examples, each in an image of its own: their Pythons are older than openpi's.
# They are clients of the policy server; the code is mounted or baked like the server's.
ARG CUDA_BASE_IMAGE=nvidia/cuda:12.2.2-cudnn8-runtime-ubuntu22.04@sha256:2d913b09e6be8387e1a10976933642c73c840c0b735f0bf3c28d97fc9bc422e0
ARG UV_IMAGE=ghcr.io/astral-sh/uv:0.5.1

FROM ${UV_IMAGE} AS uv

FROM ${CUDA_BASE_IMAGE} AS base
ARG EXAMPLE
RUN --mount=type=bind,from=checkout,target=/checkout \
    if [ ! -f "/checkout/examples/$EXAMPLE/requirements.txt" ]; then \
        echo "OPENPI_SOURCE has no examples/$EXAMPLE: this profile needs a checkout of openpi" >&2; exit 1; \
    fi
RUN --mount=type=bind,from=uv,target=/from-uv cp /from-uv/uv /from-uv/uvx /usr/local/bin/
RUN --mount=type=secret,id=apt_conf,target=/etc/apt/apt.conf.d/99site \
    apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates clang cmake ffmpeg g++ git libegl1 libgl1 libglew-dev libglfw3-dev libgles2-mesa-dev libglib2.0-0 \
        libosmesa6-dev libsm6 libxext6 libxrender1 make \
    && rm -rf /var/lib/apt/lists/*
# MuJoCo draws without a display; the GPU's own EGL comes in with the capability `graphics`.
ENV UV_LINK_MODE=copy \
    UV_PYTHON_INSTALL_DIR=/opt/python \
    PATH=/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    MUJOCO_GL=egl \
    PYOPENGL_PLATFORM=egl \
    MUJOCO_EGL_DEVICE_ID=0 \
    NVIDIA_DRIVER_CAPABILITIES=all \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
COPY entry.sh /usr/local/lib/openpi-stack/
WORKDIR /data

FROM base AS libero-mounted
RUN --mount=type=bind,from=checkout,target=/checkout \
    --mount=type=secret,id=uv_conf,target=/etc/uv/uv.toml \
    --mount=type=secret,id=ca_bundle,target=/run/ca_bundle \
    if [ -s /run/ca_bundle ]; then export SSL_CERT_FILE=/run/ca_bundle; fi; \
    if [ ! -f /checkout/third_party/libero/requirements.txt ]; then \
        echo "OPENPI_SOURCE has no third_party/libero: git submodule update --init in the checkout brings it" >&2; exit 1; \
    fi; \
    uv venv --python 3.8 /venv \
    && VIRTUAL_ENV=/venv uv pip sync --no-cache --index-strategy unsafe-best-match \
        --extra-index-url https://download.pytorch.org/whl/cu113 \
        /checkout/examples/libero/requirements.txt /checkout/third_party/libero/requirements.txt \
        /checkout/packages/openpi-client/pyproject.toml
# LIBERO asks on its first import where its files are, unless it is told.
ENV LIBERO_CONFIG_PATH=/etc/libero \
    PYTHONPATH=/app:/app/packages/openpi-client/src:/app/third_party/libero
RUN mkdir /etc/libero && at=/app/third_party/libero/libero/libero \
    && printf '%s\n' "benchmark_root: $at" "bddl_files: $at/bddl_files" "init_states: $at/init_files" \
        "datasets: $at/../datasets" "assets: $at/assets" > /etc/libero/config.yaml

FROM libero-mounted AS libero-baked
COPY --from=checkout . /app

FROM base AS aloha_sim-mounted
RUN --mount=type=bind,from=checkout,target=/checkout \
    --mount=type=secret,id=uv_conf,target=/etc/uv/uv.toml \
    --mount=type=secret,id=ca_bundle,target=/run/ca_bundle \
    if [ -s /run/ca_bundle ]; then export SSL_CERT_FILE=/run/ca_bundle; fi; \
    uv venv --python 3.10 /venv \
    && VIRTUAL_ENV=/venv uv pip sync --no-cache \
        /checkout/examples/aloha_sim/requirements.txt /checkout/packages/openpi-client/pyproject.toml
ENV PYTHONPATH=/app:/app/packages/openpi-client/src

FROM aloha_sim-mounted AS aloha_sim-baked
COPY --from=checkout . /app
