"""The shipped Dockerfiles: what fetches packages waits for a busy index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

STACKS = Path(__file__).parents[3] / "stacks"
WITH_PIP = [file for file in sorted(STACKS.glob("*/*Dockerfile")) if "pip install" in file.read_text(encoding="utf-8")]


def test_there_are_some() -> None:
    assert len(WITH_PIP) >= 6


@pytest.mark.parametrize("file", WITH_PIP, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_pip_waits_two_minutes_wherever_it_is_called(file: Path) -> None:
    before, *stages = re.split(r"^(?=FROM )", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert "\nARG PIP_DEFAULT_TIMEOUT=120\n" in before
    for stage in stages:
        ahead, found, _ = stage.partition("pip install")
        assert not found or "\nARG PIP_DEFAULT_TIMEOUT\n" in ahead, stage.splitlines()[0]
