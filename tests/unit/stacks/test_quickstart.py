"""The parts of quickstart's trainer that decide whether it may run and whether it is well."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

TRAINING = Path(__file__).parents[3] / "stacks" / "quickstart" / "training"


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TRAINING))
    sys.modules.pop("gpus", None)
    return import_module("gpus")


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TRAINING))
    return import_module("healthy")


@pytest.mark.parametrize(
    ("wanted", "seen", "missing"),
    [
        ("", [], ""),
        ("", ["GPU-a"], ""),
        ("any", ["GPU-a"], ""),
        ("any", [], "any GPU"),
        ("GPU-a", ["GPU-a", "GPU-b"], ""),
        ("GPU-a,GPU-b", ["GPU-b"], "GPU-a"),
        ("GPU-a,GPU-b", [], "GPU-a, GPU-b"),
    ],
)
def test_training_is_refused_without_the_gpu_that_was_asked_for(
    gpus: ModuleType, wanted: str, seen: list[str], missing: str
) -> None:
    assert gpus.missing(wanted, seen) == missing


def test_the_drivers_own_tool_says_what_is_visible(
    gpus: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A100 (UUID: GPU-12ab-0)'\necho '  MIG 1g (UUID: MIG-7f-1)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert gpus.visible() == ["GPU-12ab-0", "MIG-7f-1"]
    tool.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.visible() == []


@pytest.mark.parametrize(
    ("checkpoint", "age", "said"),
    [
        (False, 0, "no checkpoint yet"),
        (True, None, "no generation finished since the start"),
        (True, 59, ""),
        (True, 61, "nothing happened for 61 s"),
    ],
)
def test_health_is_a_checkpoint_and_a_heartbeat(
    healthy: ModuleType, tmp_path: Path, checkpoint: bool, age: float | None, said: str
) -> None:
    heartbeat = tmp_path / "heartbeat"
    if checkpoint:
        (tmp_path / "gen_00001.npz").touch()
    if age is not None:
        heartbeat.touch()
        os.utime(heartbeat, (1000, 1000))
    assert healthy.problem(heartbeat, tmp_path, 1000 + (age or 0)) == said
