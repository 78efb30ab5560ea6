# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The probe's container image, made of what the host has: its Python, that Python's libraries, the probe.

No pull, no network, no compiler. Which modules and libraries the probe needs is not listed here: a
child process imports them, loads the driver's library without starting it, and tells what it then
has in memory. The image is a flat file tree, the same bytes for the same host and probe.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import posixpath
import re
import struct
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

PYTHON = "/usr/bin/python3"
# -I: no environment, no user's packages; -S: no site; so that host and container run the same thing.
PYTHON_OPTIONS = ("-I", "-S", "-X", "utf8")
PROBE = "/gpulab/probe.pyc"
REPOSITORY = "gpulab/probe"
LABEL = "gpulab.probe.made-from"
DRIVER = "libcuda.so.1"
# What belongs to the driver is injected into containers by the CDI spec, never part of the image.
OF_THE_DRIVER = re.compile(r"/lib(cuda|nvidia|nvcuvid|nvoptix)[^/]*$")
FOLDERS = ("dev", "etc/ld.so.conf.d", "proc", "run", "sys", "tmp")

# Runs in the host's Python with the probe's source on stdin. Looks at itself right after the probe's
# imports; only then imports what it needs for the answer.
INVENTORY = r"""
import sys
source = sys.stdin.read()
namespace = {"__name__": "probe"}
exec(compile(source, "probe.py", "exec"), namespace)
modules = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
import base64, ctypes, importlib.util, json, marshal, os
for library in ("libcuda.so.1", "libnvidia-ptxjitcompiler.so.1"):
    try:
        ctypes.CDLL(library)
    except OSError:
        pass
with open("/proc/self/maps") as maps:
    mapped = sorted({line.split(None, 5)[5].strip() for line in maps if line.count("/")})
def compiled(text, path):
    code = compile(text, path, "exec", dont_inherit=True)
    head = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + importlib.util.source_hash(text)
    return base64.b64encode(head + marshal.dumps(code)).decode()
modules.setdefault("os", os.__file__)
python = {}
for path in sorted({path for path in modules.values() if path and path.endswith(".py")}):
    with open(path, "rb") as file:
        python[path] = compiled(file.read(), path)
json.dump({
    "python": python,
    "extensions": sorted({path for path in modules.values() if path and path.endswith(".so")}),
    "mapped": mapped,
    "executable": os.path.realpath("/proc/self/exe"),
    "probe": compiled(source.encode(), "probe.py"),
}, sys.stdout)
"""


@dataclass
class Tree:
    """A file tree under construction; paths without a leading slash."""

    files: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)

    def add(self, path: str, content: bytes, mode: int = 0o644) -> None:
        self.files[path.lstrip("/")] = (content, mode)

    def copy(self, path: str, root: Path = Path("/")) -> str:
        """A file of the host with every symbolic link on the way to it; where it really lies."""
        done, todo = "", [part for part in path.split("/") if part]
        while todo:
            here = f"{done}/{todo.pop(0)}"
            on_disk = root / here.lstrip("/")
            if on_disk.is_symlink():
                target = str(on_disk.readlink())
                self.links[here.lstrip("/")] = target
                absolute = posixpath.normpath(posixpath.join("/", done, target))
                done, todo = "", [part for part in absolute.split("/") if part] + todo
            else:
                done = here
        real = root / done.lstrip("/")
        self.add(done, real.read_bytes(), 0o755 if real.stat().st_mode & 0o111 else 0o644)
        return done

    def parents(self) -> list[str]:
        """Every folder that is needed, parents first."""
        found = set(self.folders)
        for path in [*self.files, *self.links, *self.folders]:
            parts = path.split("/")[:-1]
            found.update("/".join(parts[: n + 1]) for n in range(len(parts)))
        return sorted(found - set(self.links))

    def tar(self) -> bytes:
        """The same bytes for the same content: sorted, no owner, no time."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path in self.parents():
                archive.addfile(_member(path, tarfile.DIRTYPE, 0o755))
            for path, target in sorted(self.links.items()):
                link = _member(path, tarfile.SYMTYPE, 0o777)
                link.linkname = target
                archive.addfile(link)
            for path, (content, mode) in sorted(self.files.items()):
                member = _member(path, tarfile.REGTYPE, mode)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return out.getvalue()


def _member(path: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.type, member.mode, member.mtime = kind, mode, 0
    return member


@dataclass(frozen=True)
class Built:
    """A finished image, not yet imported."""

    tar: bytes
    digest: str
    command: tuple[str, ...]

    @property
    def tag(self) -> str:
        return self.digest[:12]


def interpreter(python: str = PYTHON) -> str:
    return str(Path(python).resolve())


def made_from(probe: str, python: str = PYTHON) -> str:
    """What the image depends on, cheap to know: probe, interpreter, C library, driver library.

    An image stays good when other libraries of the host change, since it carries its own.
    """
    parts = [hashlib.sha256((INVENTORY + probe).encode()).hexdigest()]
    for path in (Path(python).resolve(), *_libraries()):
        try:
            status = path.stat()
            parts.append(f"{path} {status.st_size} {status.st_mtime_ns}")
        except OSError:
            parts.append(f"{path} absent")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _libraries() -> list[Path]:
    """The C library that Python uses here, and the driver's library, which lies beside it."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    found = re.search(r"(/\S*/libc\.so\.6|/\S*/libc-2\S*\.so)$", maps, re.M)
    if not found:
        return []
    libc = Path(found.group(1))
    return [libc, (libc.parent / DRIVER).resolve()]


def driver_library() -> tuple[str, str] | None:
    """The driver's library on this host, and where a program looks for it; None when it is not there."""
    libraries = _libraries()
    if len(libraries) < 2 or not libraries[1].is_file():
        return None
    return str(libraries[1]), str(libraries[0].parent / DRIVER)


def inventory(probe: str, python: str = PYTHON) -> dict[str, Any]:
    """What the probe has in memory when it runs in the host's Python."""
    command = [python, *PYTHON_OPTIONS, "-c", INVENTORY]
    try:
        done = subprocess.run(
            command, input=probe, capture_output=True, text=True, check=False, timeout=60, env={"PATH": "/usr/bin:/bin"}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FleetError("PROOF_IMAGE_FAILED", f"{python}: {error}") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise FleetError("PROOF_IMAGE_FAILED", f"{python} ended with {done.returncode}: {last}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def build(probe: str, python: str = PYTHON, root: Path = Path("/")) -> Built:
    """The image as a tar for the engine to import."""
    return assemble(inventory(probe, python), root)


def assemble(found: dict[str, Any], root: Path = Path("/")) -> Built:
    """The tree of what the inventory found."""
    tree = Tree()
    executable = found["executable"]
    try:
        real = tree.copy(executable, root)
        loader = elf_interpreter(tree.files[real.lstrip("/")][0])
        libraries = [path for path in found["mapped"] if ".so" in posixpath.basename(path)]
        libraries += found["extensions"]
        if loader:
            libraries.append(loader)
        for path in sorted({path for path in libraries if not OF_THE_DRIVER.search(path)}):
            tree.copy(path, root)
    except OSError as error:
        raise FleetError("PROOF_IMAGE_FAILED", str(error)) from error
    # Libraries are found by their short name (libc.so.6), which is not always the mapped file's.
    _short_names(tree, root)
    standard = ""
    for path, code in found["python"].items():
        tree.add(f"{path}c", base64.b64decode(code))
        standard = posixpath.dirname(path) if posixpath.basename(path) == "os.py" else standard
    tree.add(PROBE, base64.b64decode(found["probe"]))
    tree.folders.update(FOLDERS)
    if standard:
        # Python takes this folder as the sign that it is where it was built for.
        tree.folders.add(f"{standard.lstrip('/')}/lib-dynload")
    folders = sorted({posixpath.dirname(f"/{path}") for path in tree.files if ".so" in posixpath.basename(path)})
    tree.add("etc/ld.so.conf", ("include /etc/ld.so.conf.d/*.conf\n" + "".join(f"{f}\n" for f in folders)).encode())
    tar = tree.tar()
    return Built(tar, hashlib.sha256(tar).hexdigest(), command(executable))


def elf_interpreter(program: bytes) -> str | None:
    """The program's loader (its PT_INTERP header); None for a static or foreign one.

    The text may lie anywhere in the file: Debian 13's Python has it behind its code.
    """
    if len(program) < 64 or program[:6] != b"\x7fELF\x02\x01":  # 64 bit, little endian: all that is supported
        return None
    (headers,) = struct.unpack_from("<Q", program, 32)
    size, count = struct.unpack_from("<HH", program, 54)
    for at in range(headers, min(headers + size * count, len(program) - 40), size):
        (kind,) = struct.unpack_from("<I", program, at)
        if kind == 3:
            (offset,) = struct.unpack_from("<Q", program, at + 8)
            (length,) = struct.unpack_from("<Q", program, at + 32)
            return program[offset : offset + length].rstrip(b"\0").decode()
    return None


def _short_names(tree: Tree, root: Path) -> None:
    """For each library in the tree the links beside it that lead to it."""
    real = {path for path in tree.files if ".so" in posixpath.basename(path)}
    for folder in {posixpath.dirname(path) for path in real}:
        for entry in (root / folder).iterdir():
            if not entry.is_symlink() or ".so" not in entry.name:
                continue
            target = str(entry.readlink())
            if "/" not in target and f"{folder}/{target}" in real:
                tree.links[f"{folder}/{entry.name}"] = target


def command(executable: str) -> tuple[str, ...]:
    return (executable, *PYTHON_OPTIONS, PROBE)
