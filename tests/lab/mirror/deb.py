"""Binary packages: what they install is compressed once, and shared by every version string it is offered under."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..system import run

EPOCH = 1767225600  # 2026-01-01: the same input gives the same bytes


@dataclass(frozen=True)
class Payload:
    """What a package installs."""

    data: bytes
    installed_size: int
    md5sums: str


@functools.cache
def architecture() -> str:
    """What dpkg calls this machine's architecture."""
    return run(["dpkg", "--print-architecture"]).stdout.strip()


def compress(tree: Path) -> Payload:
    """Compress a tree of files the way dpkg-deb does (it is the one zstd compressor that is surely there)."""
    files = sorted(p for p in tree.rglob("*") if p.is_file() and not p.is_symlink())
    md5sums = "".join(f"{hashlib.md5(p.read_bytes()).hexdigest()}  {p.relative_to(tree)}\n" for p in files)
    size = sum(max(1, (p.stat().st_size + 1023) // 1024) for p in files)
    control = tree / "DEBIAN"
    control.mkdir()
    (control / "control").write_text(
        "Package: payload\nVersion: 0\nArchitecture: all\nMaintainer: lab <lab@lab.example>\nDescription: payload\n",
        encoding="utf-8",
    )
    with tempfile.TemporaryDirectory(dir=tree.parent) as scratch:
        package = Path(scratch) / "payload.deb"
        dpkg_deb = ["env", f"SOURCE_DATE_EPOCH={EPOCH}", "dpkg-deb", "-Zzstd", "-z3", "--root-owner-group"]
        run([*dpkg_deb, "--build", tree, package])
        return Payload(_members(package.read_bytes())["data.tar.zst"], size, md5sums)


def write(
    path: Path, fields: dict[str, str], scripts: dict[str, str], conffiles: Iterable[str], payload: Payload
) -> None:
    """Write a package."""
    control = {**fields, "Installed-Size": str(payload.installed_size)}
    parts = {"control": ("".join(f"{key}: {value}\n" for key, value in control.items()), 0o644)}
    parts["md5sums"] = (payload.md5sums, 0o644)
    if conffiles:
        parts["conffiles"] = ("".join(f"{name}\n" for name in conffiles), 0o644)
    parts.update({name: (text, 0o755) for name, text in scripts.items()})
    members = {"debian-binary": b"2.0\n", "control.tar.gz": _tar(parts), "data.tar.zst": payload.data}
    with path.open("wb") as out:
        out.write(b"!<arch>\n")
        for name, content in members.items():
            out.write(f"{name:<16}{EPOCH:<12}{0:<6}{0:<6}{0o100644:<8o}{len(content):<10}`\n".encode())
            out.write(content + b"\n" * (len(content) % 2))


def control_text(path: Path) -> str:
    """The control file of a package, as it goes into an index."""
    return run(["dpkg-deb", "--field", path]).stdout


def _tar(parts: dict[str, tuple[str, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, (text, mode) in parts.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size, entry.mode, entry.mtime = len(text.encode()), mode, EPOCH
            entry.uname = entry.gname = "root"
            tar.addfile(entry, io.BytesIO(text.encode()))
    return gzip.compress(buffer.getvalue(), mtime=0)


def _members(package: bytes) -> dict[str, bytes]:
    """The members of an ar archive."""
    found, at = {}, 8
    while at < len(package):
        name, size = package[at : at + 16].decode().strip(), int(package[at + 48 : at + 58])
        found[name.rstrip("/")] = package[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    return found
