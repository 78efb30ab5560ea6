"""A data root outside the home."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._data_root import settle
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import FOLDERS, Journal
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

ME = Account("mara", os.getuid(), os.getgid(), Path("/home/mara"))
OTHER = Account("bob", os.getuid() + 1, os.getgid(), Path("/home/bob"))


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir(mode=0o755)
    return tmp_path / "scratch"


def journal(scratch: Path, check: bool = False) -> Journal:
    return Journal(check, scratch.parent / "journal")


def test_it_is_made_once_and_recorded(scratch: Path) -> None:
    root = scratch / "mara" / "docker"
    assert settle(str(root), ME, journal(scratch, check=True)) and not root.exists()
    assert settle(str(root), ME, journal(scratch))
    assert root.stat().st_mode & 0o7777 == 0o710 and root.parent.stat().st_mode & 0o7777 == 0o755
    assert list(journal(scratch).entries(FOLDERS)) == [str(root.parent), str(root)]
    assert not settle(str(root), ME, journal(scratch))


def test_one_that_is_somebody_elses_is_refused(scratch: Path) -> None:
    (scratch / "docker").mkdir()
    with pytest.raises(FleetError) as error:
        settle(str(scratch / "docker"), OTHER, journal(scratch))
    assert error.value.code == "DATA_ROOT_NOT_OWNED"


def test_root_makes_nothing_where_everybody_may_write(scratch: Path) -> None:
    scratch.chmod(0o777)
    with pytest.raises(FleetError, match="others than root"):
        settle(str(scratch / "docker"), ME, journal(scratch))
    scratch.chmod(0o1777)
    assert settle(str(scratch / "docker"), ME, journal(scratch))


def test_what_lies_in_the_home_is_the_engines_to_make(scratch: Path) -> None:
    assert not settle("", ME, journal(scratch))
    assert not settle("/home/mara/docker", ME, journal(scratch))
