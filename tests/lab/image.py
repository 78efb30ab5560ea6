"""The base image that stacks are built from on hosts which reach no image registry."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from . import base, carry
from .system import lock

NAME = "lab/base"


def archive(suite: str) -> Path:
    """The image base as `docker load` wants it.

    Unlike with `docker import`, the image then has the same id wherever and whenever it is loaded, and what was built
    on it stays cached.
    """
    tree = base.image_base(suite)
    path = tree.with_suffix(".image.tar")
    if path.exists():
        return path
    with lock(path.with_suffix(".lock")):
        if not path.exists():
            partial = path.with_suffix(".partial")
            write(tree, partial, f"{NAME}:{suite}")
            partial.rename(path)
    return path


def write(tree: Path, target: Path, tag: str) -> None:
    """One layer, the tree; everything else is derived from it."""
    summed = hashlib.sha256()
    with tree.open("rb") as layer:
        while chunk := layer.read(1 << 20):
            summed.update(chunk)
    digest = summed.hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["bash"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = json.dumps([{"Config": name, "RepoTags": [tag], "Layers": [f"{digest}.tar"]}]).encode()
    with tarfile.open(target, "w") as out:
        for member, content in ((name, config), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            out.addfile(entry, io.BytesIO(content))
        entry = tarfile.TarInfo(f"{digest}.tar")
        entry.size = tree.stat().st_size
        with tree.open("rb") as layer:
            out.addfile(entry, layer)


def stack_variables(suite: str = "bookworm") -> dict[str, Any]:
    """What a site without an image registry sets for a stack: an entry of gpulab_stacks, less user and GPUs.

    The host was given the machine's pip settings and certificates; a build on it needs them too.
    """
    tag = f"{NAME}:{suite}"
    settings = {"BASE_IMAGE": tag, "CA_BUNDLE": str(carry.CA_BUNDLE)}
    if carry.PIP_CONF.exists():
        settings["PIP_CONF"] = str(carry.PIP_CONF)
    return {"settings": settings, "images": [{"name": tag, "archive": str(archive(suite))}]}
