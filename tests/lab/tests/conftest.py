"""Tests of the lab itself. Most make real hosts: they need root and what `lab check` asks for."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .. import api, machine

LAB = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "host: makes throwaway hosts; needs root and what `lab check` asks for")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    found = machine.lacks()
    for item in items:
        if found and item.get_closest_marker("host"):
            item.add_marker(pytest.mark.skip(reason=machine.describe(found)))


def lab(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The command as a person types it."""
    done = subprocess.run([str(LAB / "lab"), *words], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """A name for a host that is gone after the test."""
    chosen = "labtest-" + request.node.name.replace("test_", "").split("[")[0].replace("_", "-")[:30].strip("-")
    lab("destroy", "--missing-ok", chosen)
    yield chosen
    lab("destroy", "--missing-ok", chosen)


@pytest.fixture(scope="module")
def host() -> Iterator[api.Host]:
    """One host for the tests that leave it running."""
    lab("destroy", "--missing-ok", "labtest")
    yield api.create("labtest")
    lab("destroy", "--missing-ok", "labtest")
