"""Archives: which kind they are, and which still have to be brought in."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _stack_images
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError


def tar(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return path


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["./bin", "./etc/passwd"], "rootfs"),
        (["usr/"], "rootfs"),
        (["blobs/", "blobs/sha256/ab"], "saved"),
        (["./blobs/sha256"], "saved"),
        (["a" * 64 + "/layer.tar"], "saved"),
        (["a" * 64 + ".json"], "saved"),
        (["manifest.json"], "saved"),
        (["oci-layout"], "saved"),
    ],
)
def test_kind(tmp_path: Path, names: list[str], kind: str) -> None:
    assert _stack_images.kind(tar(tmp_path / "a.tar", *names)) == kind


def test_a_zstd_archive_is_a_saved_image(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x28\xb5\x2f\xfd rest")
    assert _stack_images.kind(tmp_path / "a") == "saved"


@pytest.mark.parametrize("content", [b"", b"not a tar at all" * 100])
def test_what_is_no_archive_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(FleetError) as caught:
        _stack_images.kind(tmp_path / "a")
    assert caught.value.code == "STACK_ARCHIVE_INVALID"


def test_a_missing_archive_is_said(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="No such file"):
        _stack_images.kind(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("base", "base:latest"),
        ("base:1", "base:1"),
        ("host:5000/base", "host:5000/base:latest"),
        ("base@sha256:ab", "base@sha256:ab"),
    ],
)
def test_reference(name: str, whole: str) -> None:
    assert _stack_images.reference(name) == whole


def test_absent_and_misnamed() -> None:
    archives = [{"name": name, "sha256": name} for name in ("new", "here", "renamed", "lost")]
    images = {
        "gpulab/archive:here": "1",
        "here:latest": "1",
        "gpulab/archive:renamed": "2",
        "renamed:latest": "9",
        "gpulab/archive:lost": "3",
    }
    assert [each["name"] for each in _stack_images.absent(images, archives)] == ["new"]
    assert [each["name"] for each in _stack_images.misnamed(images, archives)] == ["renamed", "lost"]


def saved(path: Path, *machines: str) -> Path:
    """What `docker save` makes of images for these processors, without their layers."""
    manifest: list[dict[str, Any]] = [
        {"Config": f"{index}.json", "RepoTags": None, "Layers": []} for index, _ in enumerate(machines)
    ]
    files = {"manifest.json": manifest, **{f"{i}.json": {"architecture": each} for i, each in enumerate(machines)}}
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            data = json.dumps(content).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def test_the_processor_that_an_archive_is_for(tmp_path: Path) -> None:
    assert _stack_images.architecture(saved(tmp_path / "one.tar", "arm64")) == "arm64"
    assert _stack_images.architecture(saved(tmp_path / "two.tar", "arm64", "amd64")) == ""
    assert _stack_images.architecture(tar(tmp_path / "rootfs.tar", "./bin")) == ""
    (tmp_path / "none").write_bytes(b"\x1f\x8b broken")
    assert _stack_images.architecture(tmp_path / "none") == ""


def test_a_packed_archive_that_ends_half_way(tmp_path: Path) -> None:
    for name, start in (("gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00"), ("xz", b"\xfd7zXZ\x00\x00"), ("bz2", b"BZh9")):
        (tmp_path / name).write_bytes(start + b"broken")
        with pytest.raises(FleetError, match="is not a tar archive"):
            _stack_images.kind(tmp_path / name)


@pytest.mark.parametrize("name", ["--help", "-f", "a b", "a;b", "$(id)", "../x:1", ""])
def test_what_no_image_is_called(name: str) -> None:
    assert not _stack_images.NAME.fullmatch(name)


def test_names_of_images() -> None:
    for name in ("base", "lab/base:bookworm", "registry.example.org:5000/a/b:1.0", f"a@sha256:{'0' * 64}"):
        assert _stack_images.NAME.fullmatch(name)
