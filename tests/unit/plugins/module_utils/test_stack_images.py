"""Archives: which kind they are, and which still have to be brought in."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

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
