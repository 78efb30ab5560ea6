"""The stand-in toolkit on a prepared root: its files are those of a host, its nodes are links to the null device."""

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ...driver import install, state, tree
from .. import packages

SAMPLE = Path(__file__).parent / "cdi-spec-2gpu.yaml"


class Box:
    """A host's root, and the programs of one release run against it."""

    def __init__(self, root: Path, cache: Path, release: str, now: state.State) -> None:
        self.root = root
        (root / "usr/lib").mkdir(parents=True)
        (root / "lib").symlink_to("usr/lib")
        self.bin = root / "usr/bin"
        for package in packages.packages(release)[:1]:
            for name, (content, mode) in package.files.items():
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content.replace(f'"/{packages.HOME}"', f'"{root}/{packages.HOME}"'))
                path.chmod(mode)
        files = tree.host_files(now, cache)
        if f"{tree.LIBRARIES}/libnvidia-ml.so.1" in files:
            # the libraries have nodes of their own, so that a test can spoil those that the toolkit sees
            files |= tree.libraries(now, cache, {"dev": str(root / "opened")})
        install.write(root, files)
        (root / "proc").symlink_to("usr/lib/nvidia-standin/proc")
        for folder in ("dev", "opened"):
            (root / folder).mkdir()
            for name in tree.node_names(now):
                (root / folder / name).parent.mkdir(exist_ok=True)
                (root / folder / name).symlink_to("/dev/null")
        if "usr/lib/systemd/system/nvidia-persistenced.service" in files:
            self.persistenced()

    def persistenced(self) -> None:
        path = self.root / "run/nvidia-persistenced/socket"
        path.parent.mkdir(parents=True)
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's whole path may be no longer than 107 characters
        try:
            socket.socket(socket.AF_UNIX).bind("socket")
        finally:
            os.chdir(here)

    def run(
        self, program: str, *arguments: str, stdin: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("NVIDIA", "XDG"))}
        return subprocess.run(
            [str(self.bin / program), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            env={**clean, "NVIDIA_STANDIN_ROOT": str(self.root), **environment},
            cwd=self.root,
            check=False,
        )

    def ctk(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("nvidia-ctk", *arguments, **environment)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


Make = Callable[..., Box]


@pytest.fixture
def make(tmp_path: Path, cache: Path) -> Make:
    """make(faults..., gpus=2, settings=(), release="1.20.0"): a host in that state with that release."""

    def made(*faults: str, gpus: int = 2, settings: tuple[str, ...] = (), release: str = "1.20.0") -> Box:
        now = state.new(gpus, list(faults))
        for setting in settings:
            state.change(now, setting)
        return Box(tmp_path / "host", cache, release, now)

    return made
