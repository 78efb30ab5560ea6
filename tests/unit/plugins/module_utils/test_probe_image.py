"""The probe's image: the same bytes each time, complete enough to run, nothing of the driver."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _probe_image
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._passthrough import probe_source


@pytest.fixture(scope="module")
def built() -> _probe_image.Built:
    return _probe_image.build(probe_source())


def test_the_same_host_gives_the_same_image(built: _probe_image.Built) -> None:
    again = _probe_image.build(probe_source())
    assert again.digest == built.digest
    assert len(built.tag) == 12


def test_another_probe_gives_another_image(built: _probe_image.Built) -> None:
    assert _probe_image.build(probe_source() + "\n# changed\n").digest != built.digest


def test_members_are_sorted_and_without_owner_and_time(built: _probe_image.Built) -> None:
    with tarfile.open(fileobj=io.BytesIO(built.tar)) as archive:
        members = archive.getmembers()
    assert {(member.uid, member.gid, member.mtime) for member in members} == {(0, 0, 0)}
    files = [member.name for member in members if member.isfile()]
    assert files == sorted(files)
    assert not [member.name for member in members if member.isdev()]
    assert not [name for name in files if "nvidia" in name or "libcuda" in name]
    assert "etc/ld.so.conf" in files


def test_the_image_is_small(built: _probe_image.Built) -> None:
    assert len(built.tar) < 20_000_000


@pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root")
def test_the_image_runs(built: _probe_image.Built, tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(built.tar)) as archive:
        archive.extractall(tmp_path)
    done = subprocess.run(
        ["chroot", str(tmp_path), *built.command, '{"look": true}'],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/sbin:/usr/bin:/bin"},
    )
    assert done.stderr == ""
    assert json.loads(done.stdout)["error"]["name"] == "LIBRARY_NOT_FOUND"


def test_links_on_the_way_to_a_file_come_along(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "usr/lib/libx.so.1.2").write_bytes(b"x")
    (tmp_path / "usr/lib/libx.so.1").symlink_to("/lib/libx.so.1.2")
    tree = _probe_image.Tree()
    assert tree.copy("/lib/libx.so.1", tmp_path) == "/usr/lib/libx.so.1.2"
    assert tree.links == {"lib": "usr/lib", "usr/lib/libx.so.1": "/lib/libx.so.1.2"}
    assert list(tree.files) == ["usr/lib/libx.so.1.2"]
    assert tree.parents() == ["usr", "usr/lib"]


def test_what_it_is_made_from_changes_with_probe_and_python(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text("one")
    first = _probe_image.made_from("probe", str(python))
    assert _probe_image.made_from("probe", str(python)) == first
    assert _probe_image.made_from("other probe", str(python)) != first
    python.write_text("another")
    assert _probe_image.made_from("probe", str(python)) != first


@pytest.mark.parametrize("python", ["/nowhere/python3", "/bin/false"])
def test_a_python_that_does_not_run(python: str) -> None:
    with pytest.raises(FleetError) as raised:
        _probe_image.build(probe_source(), python)
    assert raised.value.code == "PROOF_IMAGE_FAILED"


def elf(interpreter: bytes, at: int, kind: int = 3) -> bytes:
    """A 64-bit program with one header, that of its loader, whose name lies at the given place."""
    head = b"\x7fELF\x02\x01".ljust(32, b"\0") + struct.pack("<Q", 64)
    head = head.ljust(54, b"\0") + struct.pack("<HH", 56, 1)
    header = struct.pack("<IIQQQQQQ", kind, 4, at, at, at, len(interpreter), len(interpreter), 1)
    return (head.ljust(64, b"\0") + header).ljust(at, b"\xff") + interpreter


@pytest.mark.parametrize("at", [200, 5_000_000], ids=["at the start", "behind the code"])
def test_the_loader_is_read_from_the_program_header(at: int) -> None:
    assert _probe_image.elf_interpreter(elf(b"/lib64/ld-linux-x86-64.so.2\0", at)) == "/lib64/ld-linux-x86-64.so.2"


def test_a_program_without_a_loader() -> None:
    assert _probe_image.elf_interpreter(elf(b"/lib64/x\0", 200, kind=1)) is None
    assert _probe_image.elf_interpreter(b"#!/bin/sh\n") is None
    assert _probe_image.elf_interpreter(elf(b"", 200)[:70]) is None


def test_the_loader_of_this_python() -> None:
    loader = _probe_image.elf_interpreter(Path(_probe_image.interpreter()).read_bytes())
    assert loader and "/ld-" in loader and Path(loader).exists()
