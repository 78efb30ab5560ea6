"""Compiles the stand-in's C sources, once for each content, and writes properties into what was compiled."""

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

SOURCES = Path(__file__).parent / "src"
MARK = b"gpulab-standin-properties\n"
ROOM = 32768  # as reserved in standin.c
FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fPIC", "-fvisibility=hidden"]

# what: (sources, further arguments)
PROGRAMS: dict[str, tuple[list[str], list[str]]] = {
    "libnvidia-ml": (
        ["standin.c", "nvml.c", "nvml_device.c", "nvml_mig.c"],
        ["-shared", "-Wl,-soname,libnvidia-ml.so.1"],
    ),
    "libcuda": (
        [
            "standin.c",
            "cuda.c",
            "cuda_context.c",
            "cuda_memory.c",
            "cuda_module.c",
            "cuda_symbols.c",
            "ptx_load.c",
            "ptx_run.c",
        ],
        ["-shared", "-Wl,-soname,libcuda.so.1", "-lm"],
    ),
    "nvidia-smi": (["standin.c", "smi.c"], ["-ldl"]),
    "nvidia-modprobe": (["standin.c", "modprobe.c"], []),
    "nvidia-persistenced": (["persistenced.c"], []),
}


class BuildError(Exception):
    """The compiler is missing or refused; the text says which."""


def _compile(target: Path, sources: list[str], arguments: list[str]) -> None:
    command = ["gcc", *FLAGS, "-o", str(target), *(str(SOURCES / source) for source in sources), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command)}\n{done.stderr}")


def _in_cache(cache: Path, key: str, make: Callable[[Path], object]) -> Path:
    """The file of that name, made by make(path) beside it and renamed into place when it is whole."""
    target = cache / key
    if not target.exists():
        if shutil.which("gcc") is None:
            raise BuildError("gcc is missing; the stand-in driver is compiled here: apt-get install gcc libc6-dev")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            made = Path(folder) / "made"
            make(made)
            made.rename(target)
    return target


def build(cache: Path) -> dict[str, Path]:
    """Every program and library of PROGRAMS, compiled."""
    digest = hashlib.sha256(repr((FLAGS, PROGRAMS)).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + source.read_bytes())
    folder = cache / "driver" / digest.hexdigest()[:16]
    return {
        name: _in_cache(folder, name, lambda path, what=what: _compile(path, *what)) for name, what in PROGRAMS.items()
    }


def empty_library(cache: Path, soname: str) -> Path:
    """A library with a name and nothing in it, for those that only have to be there."""

    def make(path: Path) -> None:
        source = path.with_suffix(".c")
        source.write_text("")
        command = ["gcc", "-shared", "-nostdlib", f"-Wl,-soname,{soname}", "-o", str(path), str(source)]
        subprocess.run(command, check=True, capture_output=True)

    return _in_cache(cache / "driver" / "empty", soname, make)


def with_properties(program: Path, properties: str) -> bytes:
    """The program's bytes with these properties in the place reserved for them."""
    content = bytearray(program.read_bytes())
    at = content.find(MARK)
    if at < 0:
        return bytes(content)
    text = MARK + properties.encode()
    if len(text) >= ROOM:
        raise BuildError(f"the properties need {len(text)} bytes, there is room for {ROOM}")
    content[at : at + ROOM] = text.ljust(ROOM, b"\0")
    return bytes(content)
