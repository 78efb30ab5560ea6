"""Which release a rollback goes back to, and which are kept for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from .fake_host import Host

KEPT = 3


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch, Random(1))


def deploy(host: Host, word: str, mode: str = "serve") -> str:
    return host.deploy(replace(host.plan(WORD=word, MODE=mode), keep=KEPT))


def current(host: Host) -> str:
    release = host.store.current()
    assert release
    return release.id


def test_back_to_what_ran_before_and_not_to_what_was_rolled_back_from(host: Host) -> None:
    for word in ("good", "bad"):
        assert deploy(host, word) == "done"
    assert host.run(lambda verb: verb.rollback()) == "done" and current(host) == "0001"
    assert deploy(host, "mended") == "done" and current(host) == "0003"
    assert host.run(lambda verb: verb.rollback()) == "done" and current(host) == "0001"
    assert host.run(lambda verb: verb.rollback()) == "RELEASE_NONE_BEFORE" and current(host) == "0001"


def test_a_named_release_leads_back_by_its_own_way(host: Host) -> None:
    for word in ("one", "two", "three"):
        assert deploy(host, word) == "done"
    assert host.run(lambda verb: verb.rollback("0002")) == "done"
    assert host.run(lambda verb: verb.rollback()) == "done" and current(host) == "0001"


def test_one_that_failed_is_never_gone_back_to(host: Host) -> None:
    assert deploy(host, "one") == "done"
    assert deploy(host, "two", mode="exit") != "done"
    assert deploy(host, "three") == "done"
    assert host.run(lambda verb: verb.rollback()) == "done" and current(host) == "0001"


def test_mounts_come_back_with_their_release_if_they_are_still_there(host: Host, tmp_path: Path) -> None:
    folder, away = tmp_path / "lib", tmp_path / "away"
    mount = {"source": str(folder), "target": "/lib", "services": [], "write": False, "enabled": True}
    plan = replace(host.plan(WORD="one"), keep=KEPT, mounts={"lib": mount})

    def mounted() -> bool:
        return str(folder) in (host.store.link / "compose.yml").read_text()

    assert host.deploy(plan) == "STACK_MOUNT_INVALID" and host.store.current() is None
    folder.mkdir()
    assert host.deploy(plan) == "done" and mounted()
    assert deploy(host, "two") == "done" and not mounted()
    folder.rename(away)
    assert host.run(lambda verb: verb.rollback()) == "RELEASE_INCOMPLETE" and current(host) == "0002"
    away.rename(folder)
    assert host.run(lambda verb: verb.rollback()) == "done" and mounted()
    kept = host.store.current()
    assert kept and kept.host_mounts == {"lib": mount}


def test_what_ran_before_is_kept_rather_than_what_was_rolled_back_from(host: Host) -> None:
    assert deploy(host, "good") == "done"
    for n in range(KEPT):
        assert deploy(host, f"bad{n}") == "done"
        assert host.run(lambda verb: verb.rollback("0001")) == "done"
    assert deploy(host, "mended") == "done"
    assert "0001" in {release.id for release in host.store.all()}
