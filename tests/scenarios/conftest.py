"""Lab hosts for the scenario tests: made once, brought back to a snapshot where a test breaks things."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .site import Site, lab

ONE_USER = {"gpulab_gpus_expected": 2, "gpulab_users": {"trainer": {"gpus": "all"}}}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0 or shutil.which("systemd-nspawn") is None:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="the lab needs root and systemd-nspawn"))


@pytest.fixture(scope="session", autouse=True)
def mirror() -> None:
    lab("mirror", "up")


class Hosts:
    """Makes hosts for tests and takes them all down at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[str] = []

    def site(self, name: str, variables: dict[str, Any] | None = None, *options: str) -> Site:
        """A fresh host called `name` and an inventory with it."""
        self.made.append(name)
        lab("destroy", "--missing-ok", name)
        lab("create", name, *options)
        return Site(self.folder / name, [name], ONE_USER if variables is None else variables)

    def destroy(self) -> None:
        lab("destroy", "--missing-ok", *self.made)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Hosts of one test file's own."""
    made = Hosts(tmp_path_factory.mktemp("sites"))
    yield made
    made.destroy()


@pytest.fixture(scope="session")
def main_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A host with two GPUs, with snapshots of it: `fresh`, and `converged` after site.yml."""
    # Tests run in several processes, a file in one of them: each process has a main host of its own.
    name = f"scn-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
    made = Hosts(tmp_path_factory.mktemp("main"))
    try:
        site = made.site(name)
        lab("snapshot", name, "fresh")
        site.run().ok()
        lab("snapshot", name, "converged")
        yield site
    finally:
        made.destroy()


@pytest.fixture
def converged(main_host: Site) -> Site:
    """The converged host, whatever the test before did to it."""
    lab("restore", main_host.hosts[0], "converged")
    main_host.set(ONE_USER)
    return main_host


@pytest.fixture
def fresh(main_host: Site) -> Site:
    """The same host as it was before anything was installed."""
    lab("restore", main_host.hosts[0], "fresh")
    main_host.set(ONE_USER)
    return main_host
