# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The Python parts of targets, on the controller: fetched once for all hosts, checked, packed into one archive."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

LOCK = Path(__file__).resolve().parents[2] / "requirements" / "target.txt"
ARCHIVE = "python.tar.gz"
REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")

Pins = dict[str, set[str]]


def digest_of(lock: str) -> str:
    """Names the folder on targets: the same pins, the same folder."""
    return hashlib.sha256(lock.encode()).hexdigest()[:12]


def pins(lock: str) -> Pins:
    """name==version with the hashes that its file may have."""
    found: Pins = {}
    current = ""
    for line in lock.splitlines():
        match = REQUIREMENT.match(line)
        if match:
            current = f"{match.group(1)}=={match.group(2)}"
            found[current] = set()
        if current and not line.lstrip().startswith("#"):
            found[current].update(HASH.findall(line))
    return found


def cache_root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gpulab" / "wheels"


def matching(folder: Path, wanted: Pins) -> dict[str, Path]:
    """For each pin the wheel in the folder that has one of its hashes."""
    by_hash = {hashlib.sha256(wheel.read_bytes()).hexdigest(): wheel for wheel in sorted(folder.glob("*.whl"))}
    return {pin: by_hash[value] for pin, hashes in wanted.items() for value in hashes if value in by_hash}


def download(folder: Path, lock: Path, index: str) -> None:
    """pip, asked for pure wheels whatever this controller is."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--require-hashes", "--no-deps", "--only-binary=:all:", "--platform", "any", "--implementation", "py"]
    command += ["--abi", "none", "--python-version", "3.10", "--dest", str(folder), "--requirement", str(lock)]
    # In the environment and not among the arguments: an index address can hold a password.
    environment = {**os.environ, **({"PIP_INDEX_URL": index} if index else {})}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FleetError("PROOF_WHEELS_UNAVAILABLE", f"pip on the controller: {type(error).__name__}") from error
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise FleetError("PROOF_WHEELS_UNAVAILABLE", " ".join(errors[-2:]).strip() or f"pip ended {done.returncode}")


def pack(wheels: list[Path]) -> bytes:
    """The wheels' content in one archive: the same bytes for the same wheels."""
    out = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=out, mode="wb", mtime=0, compresslevel=6) as squeezed,
        tarfile.open(fileobj=squeezed, mode="w") as archive,
    ):
        for wheel in sorted(wheels, key=lambda path: path.name):
            with zipfile.ZipFile(wheel) as content:
                for name in sorted(content.namelist()):
                    if name.endswith("/"):
                        continue
                    data = content.read(name)
                    member = tarfile.TarInfo(name)
                    member.size, member.mode = len(data), 0o644
                    archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hosts are worked on side by side; one of them fetches, the others find it done."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def provide(lock: Path = LOCK, index: str = "", root: Path | None = None) -> Path:
    """The archive for targets, made on first use. What a person put into the folder by hand counts."""
    text = lock.read_text(encoding="utf-8")
    root = root or cache_root()
    folder = root / digest_of(text)
    archive = folder / ARCHIVE
    wanted = pins(text)
    with only_one(root):
        if archive.exists():
            return archive
        folder.mkdir(exist_ok=True)
        if set(matching(folder, wanted)) != set(wanted):
            fresh = root / f".{folder.name}.{os.getpid()}"
            shutil.rmtree(fresh, ignore_errors=True)
            try:
                download(fresh, lock, index)
                for wheel in fresh.glob("*.whl"):
                    wheel.replace(folder / wheel.name)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
        wheels = matching(folder, wanted)
        missing = sorted(set(wanted) - set(wheels))
        if missing:
            raise FleetError("PROOF_WHEELS_UNAVAILABLE", f"{folder} has no wheel for {', '.join(missing)}")
        part = folder / f".{ARCHIVE}"
        part.write_bytes(pack(list(wheels.values())))
        part.replace(archive)
    return archive
