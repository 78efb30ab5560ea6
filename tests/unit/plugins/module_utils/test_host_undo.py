"""The host's part of a reset: which packages may go, which units come back, and in what order."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _host_undo, _proxy_host
from ansible_collections.gpulab.fleet.plugins.module_utils import _journal as kinds
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._host_undo import HostUndo, present, removals
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import Journal


class Host:
    """dpkg, apt and systemd, as far as a reset asks them."""

    def __init__(self) -> None:
        self.installed = {"docker-ce": "ii ", "uidmap": "ii ", "libslirp0": "ii "}
        self.needs: dict[str, set[str]] = {}  # a package and those it cannot be without
        self.units: dict[str, tuple[str, str, str]] = {}
        self.calls: list[list[str]] = []

    def run(self, argv: list[str], check_rc: bool = False, environ_update: Any = None) -> tuple[int, str, str]:
        if argv[0] == "dpkg-query":
            known = [name for name in argv[4:] if name in self.installed]
            return 0, "".join(f"{name}\t{self.installed[name]}\t1\n" for name in known), ""
        if argv[:2] == ["systemctl", "show"]:
            load, file, active = self.units.get(argv[3], ("not-found", "", "inactive"))
            return 0, f"LoadState={load}\nUnitFileState={file}\nActiveState={active}\n", ""
        if "--simulate" in argv:
            going = set(argv[argv.index("purge") + 1 :])
            while more := {name for name, needed in self.needs.items() if needed & going} - going:
                going |= more
            return 0, "".join(f"Purg {name} [1]\n" for name in sorted(going)), ""
        self.calls.append(argv)
        if argv[:2] == ["systemctl", "unmask"]:
            self.units[argv[2]] = ("loaded", "disabled", "inactive")
        for verb in ("purge", "remove"):
            if argv[0] == "apt-get" and verb in argv:
                for name in argv[argv.index(verb) + 1 :]:
                    self.installed[name] = "rc " if verb == "remove" else "un "
        return 0, "", ""

    def undo(self, check: bool = False) -> HostUndo:
        module: Any = SimpleNamespace(check_mode=check, run_command=self.run)
        return HostUndo(module)

    def done(self) -> list[str]:
        return [" ".join(argv) for argv in self.calls]


@pytest.fixture
def host() -> Host:
    return Host()


def test_what_dpkg_and_apt_say() -> None:
    assert present("a\tii \t1\nb\trc \t1\nc\tun \t\nd\thi \t2\n") == {"a": "installed", "b": "config", "d": "installed"}
    assert removals("Reading...\nPurg a [1]\nRemv b [2] [c ]\nInst d (1)\n") == {"a", "b"}


def test_packages_go_with_all_that_they_pulled_in(host: Host) -> None:
    for name in ("docker-ce", "uidmap", "libslirp0", "gone-already"):
        Journal().add(kinds.PACKAGE, name)
    result = host.undo().go([])
    assert host.done()[0].endswith("purge docker-ce uidmap libslirp0")
    assert Journal().entries(kinds.PACKAGE) == {}
    assert result["left"] == []


def test_settings_of_an_earlier_installation_stay(host: Host) -> None:
    Journal().add(kinds.PACKAGE, "docker-ce", "config")
    host.undo().go([])
    assert host.done() == [" ".join([*host.calls[0][:-2], "remove", "docker-ce"])]
    assert host.undo().go([])["changed"] is False


@pytest.mark.parametrize(
    ("content", "verb"), [("overlay2", "remove"), ("nuke-graph-directory.sh", "purge"), ("", "purge")]
)
def test_purging_never_deletes_a_root_engines_data(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, verb: str
) -> None:
    monkeypatch.setattr(_host_undo, "ROOTFUL_DATA", tmp_path)
    if content:
        (tmp_path / content).touch()
    host.installed["docker.io"] = "ii "
    Journal().add(kinds.PACKAGE, "docker.io")
    host.undo().go([])
    assert host.done()[0].endswith(f"{verb} docker.io")


def test_what_somebody_needs_by_now_stays(host: Host) -> None:
    host.needs = {"their-tool": {"libslirp0"}, "docker-ce": {"uidmap"}}
    for name in ("docker-ce", "uidmap", "libslirp0"):
        Journal().add(kinds.PACKAGE, name)
    result = host.undo().go([])
    assert host.done()[0].endswith("purge docker-ce uidmap")
    assert [each.split()[0] for each in result["left"]] == ["libslirp0"]


def test_alternatives_are_not_all_taken(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is content with either of two loses one of them at most."""
    Journal().add(kinds.PACKAGE, "uidmap")
    Journal().add(kinds.PACKAGE, "libslirp0")
    undo = host.undo()
    both = {"uidmap", "libslirp0"}
    monkeypatch.setattr(undo, "foreign", lambda names, ours=None: {"either"} if both <= set(names) else set())
    assert undo.removable(["uidmap", "libslirp0"]) == (["uidmap"], ["libslirp0"])


def test_holds_are_lifted_first(host: Host) -> None:
    Journal().add(kinds.HOLD, "docker-ce")
    Journal().add(kinds.PACKAGE, "docker-ce")
    host.undo().go([])
    assert host.done()[0] == "apt-mark unhold docker-ce"
    assert "purge" in host.done()[1]


@pytest.mark.parametrize(
    ("before", "now", "calls"),
    [
        ("", ("loaded", "enabled", "active"), ["disable --now"]),
        ("", ("masked", "masked", "inactive"), ["unmask"]),
        ("enabled", ("masked", "masked", "inactive"), ["unmask", "enable --now"]),
        ("disabled", ("masked", "masked", "inactive"), ["unmask"]),
        ("disabled", ("loaded", "enabled", "active"), ["disable --now"]),
        ("enabled", ("loaded", "enabled", "active"), []),
        ("masked", ("masked", "masked", "inactive"), []),
        ("masked", ("loaded", "disabled", "inactive"), ["mask --now"]),
        ("static", ("loaded", "static", "inactive"), []),
        ("enabled", ("not-found", "", "inactive"), []),
    ],
)
def test_units_are_as_they_were(host: Host, before: str, now: tuple[str, str, str], calls: list[str]) -> None:
    Journal().add(kinds.UNIT, "x.service", before)
    host.units["x.service"] = now
    result = host.undo().go([])
    acted = [each for each in host.done() if each != "systemctl daemon-reload"]
    assert acted == [f"systemctl {verb} x.service" for verb in calls]
    assert bool(result["left"]) == (before == "enabled" and now[0] == "not-found")


def test_all_are_unmasked_before_one_is_started(host: Host) -> None:
    """systemd refuses to start a socket whose service is masked."""
    for name in ("docker.socket", "docker.service"):
        Journal().add(kinds.UNIT, name, "enabled")
        host.units[name] = ("masked", "masked", "inactive")
    host.undo().go([])
    assert [argv[1] for argv in host.calls] == ["daemon-reload", "unmask", "unmask", "enable", "enable"]


def test_the_trust_store_is_made_anew_where_an_authority_of_ours_goes(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_proxy_host, "UPDATE", "/bin/true")
    Journal().add(kinds.FILE, "/usr/local/share/ca-certificates/gpulab-1.crt")
    assert "made the trust store anew" in host.undo().go([])["actions"]
    assert host.done() == ["/bin/true --fresh"]
    assert host.undo().go([])["changed"] is False
    # Killed in between: the file is gone and forgotten, the link is there.
    monkeypatch.setattr(_proxy_host, "trusted", lambda *_: False)
    assert host.undo().go([])["actions"] == ["made the trust store anew"]


def test_engines_come_first(host: Host) -> None:
    Journal().add(kinds.ENGINE, "trainer")
    with pytest.raises(FleetError) as caught:
        host.undo().go([])
    assert caught.value.code == "RESET_ENGINES_LEFT"
    assert host.calls == []
    assert host.undo(check=True).go([])["changed"] is False


def test_removed_and_upgraded_packages_are_listed_once(host: Host) -> None:
    Journal().add(kinds.REMOVED, "docker.io", "20.10")
    Journal().add(kinds.UPGRADED, "containerd.io", "1.6")
    assert [each.split()[:2] for each in host.undo().go([])["left"]] == [
        ["docker.io", "20.10"],
        ["containerd.io", "stays"],
    ]
    assert host.undo().go([])["left"] == []


def test_check_mode_changes_nothing(host: Host) -> None:
    Journal().add(kinds.PACKAGE, "docker-ce")
    Journal().add(kinds.UNIT, "docker.service", "enabled")
    host.units["docker.service"] = ("masked", "masked", "inactive")
    before = Journal().path.read_text()
    predicted = host.undo(check=True).go([])
    assert host.calls == [] and Journal().path.read_text() == before
    assert predicted["actions"] == ["purged docker-ce", "unmasked docker.service", "enabled docker.service"]


def test_while_data_are_kept_so_is_the_journal(host: Host) -> None:
    Journal().put(kinds.DATA, "trainer", {"roots": ["/scratch/docker"], "data": [], "folders": []})
    Journal().add(kinds.SUBID, "trainer", {"subuid": ["100000:65536"]})
    result = host.undo().go([])
    assert "subordinate ids" in result["left"][0]
    assert list(Journal().entries(kinds.SUBID)) == ["trainer"]
    assert result["changed"] is False
