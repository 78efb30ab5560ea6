"""A driver in a folder of its own: its nodes are links to the null device, so that no root and no host is needed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .. import install, state, tree

HERE = Path(__file__).parent


class Rig:
    """The stand-in driver as a program sees it."""

    def __init__(self, root: Path, cache: Path, now: state.State) -> None:
        self.root, self.dev, self.state = root, root / "dev", now
        self.dev.mkdir(parents=True)
        for name in tree.node_names(now):
            (self.dev / name).parent.mkdir(exist_ok=True)
            (self.dev / name).symlink_to("/dev/null")
        install.write(root, tree.libraries(now, cache, {"dev": str(self.dev)}))
        self.environment = {**os.environ, "LD_LIBRARY_PATH": str(root / tree.LIBRARIES)}
        self.environment.pop("CUDA_VISIBLE_DEVICES", None)

    def run(self, *command: str, **further: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, env=self.environment, check=False, **further)

    def smi(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(self.root / "usr/bin/nvidia-smi"), *arguments)

    def python(self, program: str) -> Any:
        """What a Python program, run against this driver, prints as JSON."""
        done = self.run(sys.executable, "-c", program)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def cuda(self, **wish: Any) -> dict[str, Any]:
        """What cuda_program.py did of this wish."""
        done = self.run(sys.executable, str(HERE / "cuda_program.py"), input=json.dumps(wish))
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


Make = Callable[..., Rig]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def make(tmp_path: Path, cache: Path) -> Make:
    """make(faults..., gpus=2, settings=[...]): a driver in that state."""
    count = 0

    def made(*faults: str, gpus: int = 2, settings: tuple[str, ...] = ()) -> Rig:
        nonlocal count
        count += 1
        now = state.new(gpus, list(faults))
        for setting in settings:
            state.change(now, setting)
        return Rig(tmp_path / f"host{count}", cache, now)

    return made
