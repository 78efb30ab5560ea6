"""Who holds a stack's lock: the run, and after its death what it had started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _stack_lock
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

# A run: it takes the lock, starts a shell that inherits it, and waits. What the shell does is the last argument.
RUN = """
import subprocess, sys, time
from pathlib import Path
from ansible_collections.gpulab.fleet.plugins.module_utils import _stack_lock
with _stack_lock.held(Path(sys.argv[1]), "small", "tester", "deploy", 0):
    subprocess.Popen(["sh", "-c", sys.argv[2]], pass_fds=_stack_lock.inherited())
    print("holds", flush=True)
    time.sleep(60)
"""
GOES_ON = "sleep 60; true"
DEAF = f"trap '' TERM; {GOES_ON}"


class Run:
    def __init__(self, stacks: Path, does: str) -> None:
        self.stacks = stacks
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(stacks), does], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout and self.process.stdout.readline() == "holds\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def left(self) -> dict[int, str]:
        path = self.stacks / ".locks" / "small"
        return _stack_lock._left(path, path.read_bytes())

    def end(self) -> None:
        self.kill()
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Run]:
    made = Run(tmp_path, request.param)
    yield made
    if (tmp_path / ".locks" / "small").exists():
        made.end()


def take(stacks: Path, wait: float = 0.3) -> None:
    with _stack_lock.held(stacks, "small", "other", "settle", wait):
        pass


@pytest.mark.parametrize("run", [GOES_ON], indirect=True)
def test_a_run_that_lives_is_named_and_left_alone(run: Run, tmp_path: Path) -> None:
    with pytest.raises(FleetError) as raised:
        take(tmp_path)
    assert raised.value.code == "STACK_BUSY"
    assert f"deploy by tester (process {run.process.pid}) since" in raised.value.detail
    assert "died" not in raised.value.detail
    assert run.process.poll() is None
    assert run.left() == {}


@pytest.mark.parametrize("run", ["sleep 5"], indirect=True)
def test_what_a_killed_run_has_started_is_waited_for(run: Run, tmp_path: Path) -> None:
    run.kill()
    assert list(run.left().values()), "the shell holds the lock"
    began = time.monotonic()
    take(tmp_path, wait=60)
    assert time.monotonic() - began < 50, "no longer than it took"


@pytest.mark.parametrize("run", [GOES_ON], indirect=True)
def test_what_does_not_end_is_told_to(run: Run, tmp_path: Path) -> None:
    run.kill()
    take(tmp_path)
    assert not (tmp_path / ".locks").exists()


@pytest.mark.parametrize("run", [DEAF], indirect=True)
def test_what_does_not_end_even_then_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run.kill()
    monkeypatch.setattr(_stack_lock, "END", 0.5)
    with pytest.raises(FleetError, match=r"has died, and what it started does not end: .*sleep 60"):
        take(tmp_path)
    left = run.left()
    said = _stack_lock._described((run.stacks / ".locks" / "small").read_bytes(), left)
    assert all(f"process {pid}" in said for pid in left)
