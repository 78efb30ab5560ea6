"""apt_packages: one apt call when something differs, none otherwise, and a reason when it cannot be."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import (
    FILE,
    HOLD,
    PACKAGE,
    REMOVED,
    UPGRADED,
    Journal,
)
from ansible_collections.gpulab.fleet.plugins.modules import apt_packages
from ansible_collections.gpulab.fleet.plugins.modules.apt_packages import Packages

NEW = "5:28.5.2-1~jammy"
OLD = "5:26.1.5-1~jammy"


class Failed(Exception):
    pass


class Host:
    """dpkg and apt with one repository."""

    def __init__(self) -> None:
        self.installed = {"docker.io": ("ii ", "20.10-1")}
        self.offered = {"docker-ce": [NEW, OLD], "uidmap": ["1:4.8-1"]}
        self.calls: list[list[str]] = []
        self.update_error = ""
        self.install_errors: list[str] = []
        self.also_removed: list[str] = []
        self.also_installed: list[str] = []
        self.warnings: list[str] = []
        self.unreadable = False

    def run(
        self, argv: list[str], environ_update: dict[str, str] | None = None, check_rc: bool = False
    ) -> tuple[int, str, str]:
        self.calls.append(argv)
        if argv[0] == "dpkg-query":
            rows = [f"{n}\t{s}\t{v}\n" for n, (s, v) in self.installed.items() if n in argv]
            return int(len(rows) < len(argv) - 4), "".join(rows), ""
        assert environ_update is None or environ_update["LC_ALL"] == "C"
        if argv[0] == "apt-cache":
            if self.unreadable:
                return 100, "", "E: Conflicting values set for option Signed-By\n"
            return 0, "".join(self.policy(n) for n in argv[2:] if n in self.offered), ""
        if argv[:2] == ["dpkg", "--compare-versions"]:
            return int(not argv[2] < argv[4]), "", ""
        if argv[0] == "apt-mark":
            for name in argv[2:]:
                status, version = self.installed[name]
                self.installed[name] = (("h" if argv[1] == "hold" else "i") + status[1:], version)
            return 0, "", ""
        if argv[0] == "dpkg":
            return 0, "", ""
        if "update" in argv:
            return 0, "", self.update_error
        if "--simulate" in argv:
            out = [f"Remv {n} [1]" for n in [a[:-1] for a in argv if a[-1] == "-"] + self.also_removed]
            for name, version in [a.split("=") for a in argv if "=" in a and "::" not in a]:
                out.append(f"Inst {name} [1] ({version})" if self.has(name) else f"Inst {name} ({version})")
            return 0, "".join(f"{line}\n" for line in [*out, *self.also_installed]), ""
        if self.install_errors:
            return 100, "", self.install_errors.pop(0)
        if "--download-only" in argv:
            return 0, "", ""
        if any(self.installed.get(a.split("=")[0].rstrip("-"), ("",))[0][:1] == "h" for a in argv):
            return 100, "", "E: Held packages were changed and -y was used without --allow-change-held-packages."
        for argument in argv[argv.index("install") + 1 :]:
            if "=" in argument:
                name, version = argument.split("=")
                self.installed[name] = ("ii ", version)
            elif argument.endswith("-"):
                del self.installed[argument[:-1]]
        return 0, "", ""

    def has(self, name: str) -> bool:
        return name in self.installed and self.installed[name][0][1] != "c"

    def policy(self, name: str) -> str:
        table = "".join(
            f"     {v} 500\n        500 http://mirror jammy/stable amd64 Packages\n" for v in self.offered[name]
        )
        return f"{name}:\n  Installed: (none)\n  Candidate: {self.offered[name][0]}\n  Version table:\n{table}"

    def converge(self, check: bool = False, **params: Any) -> dict[str, Any]:
        def fail(**result: Any) -> None:
            raise Failed(f"{result['finding']['code']} {result['finding']['evidence']}")

        defaults: dict[str, Any] = {
            "packages": [{"name": "docker-ce", "version": "28.5.2", "minimum": "26.1"}, {"name": "uidmap"}],
            "conflicts": ["docker.io", "podman-docker"],
            "on_conflict": "remove",
            "keep_installed": False,
            "allow_downgrade": False,
            "lock_timeout": 0,
            "held": [],
            "released": [],
            "accept_versions": [],
            "programs": ["docker-ce", "docker.io"],
            "users": ["trainer"],
            "when_busy": "skip",
            "busy_timeout": 0,
            "stage_only": False,
        }
        module: Any = SimpleNamespace(
            params={**defaults, **params},
            check_mode=check,
            fail_json=fail,
            run_command=self.run,
            warn=self.warnings.append,
        )
        return Packages(module).converge()

    def marks(self) -> list[list[str]]:
        return [c[1:] for c in self.calls if c[0] == "apt-mark"]

    def applied(self) -> list[list[str]]:
        """The calls that change something."""
        return [c for c in self.calls if c[0] == "apt-get" and "--simulate" not in c]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(apt_packages, "UPDATES", tmp_path / "absent")
    return Host()


def test_one_install_call_then_none(host: Host) -> None:
    first = host.converge()
    assert first["changed"]
    assert first["removed"] == ["docker.io"]
    assert first["versions"] == {"docker-ce": NEW, "uidmap": "1:4.8-1"}
    assert first["upgraded"] == []
    update, install = host.applied()
    assert update[-1] == "update"
    assert install[install.index("install") + 1 :] == [f"docker-ce={NEW}", "uidmap=1:4.8-1", "docker.io-"]
    host.calls.clear()
    second = host.converge()
    assert not second["changed"]
    assert [c[0] for c in host.calls] == ["dpkg-query"]
    assert second["diff"]["before"] == second["diff"]["after"]


def test_check_mode_predicts_and_calls_nothing(host: Host) -> None:
    predicted = host.converge(check=True)
    assert host.applied() == []
    done = host.converge()
    assert {k: predicted[k] for k in ("changed", "versions", "removed", "diff")} == {
        k: done[k] for k in ("changed", "versions", "removed", "diff")
    }


def test_check_mode_before_the_source_is_there(host: Host) -> None:
    host.offered = {}
    result = host.converge(check=True)
    assert result["changed"]
    assert result["versions"]["docker-ce"] == "28.5.2"
    (warning,) = host.warnings
    assert warning.startswith("not predictable in check mode, ") and "yet: docker-ce 28.5.2, uidmap. " in warning


@pytest.mark.parametrize(
    ("version", "update_error", "seen"),
    [
        ("99.0", "", f"docker-ce: wanted 99.0; offered: {NEW}, {OLD} from http://mirror jammy/stable amd64 Packages"),
        ("99.0", "W: Failed to fetch http://mirror/InRelease  Could not connect", "Could not connect"),
    ],
)
def test_a_version_that_is_not_offered(host: Host, version: str, update_error: str, seen: str) -> None:
    host.update_error = update_error
    with pytest.raises(Failed, match="PACKAGE_UNAVAILABLE") as caught:
        host.converge(packages=[{"name": "docker-ce", "version": version}])
    assert seen in str(caught.value)
    assert len(host.applied()) == 1  # the update


def test_an_unreachable_mirror_on_a_fresh_host(host: Host) -> None:
    host.offered = {}
    host.update_error = "W: Failed to fetch http://mirror/InRelease  Could not connect to mirror"
    with pytest.raises(Failed, match="PACKAGE_UNAVAILABLE") as caught:
        host.converge()
    assert "wanted 28.5.2; offered: none from no source; apt-get update said: W: Failed to fetch" in str(caught.value)


@pytest.mark.parametrize(
    ("installed", "params", "code"),
    [
        ({}, {"packages": [{"name": "docker-ce", "version": "20.10", "minimum": "26.1"}]}, "PACKAGE_TOO_OLD"),
        ({"docker-ce": ("ii ", "5:29.0-1")}, {}, "PACKAGE_DOWNGRADE"),
        ({"docker-ce": ("hi ", OLD)}, {}, "PACKAGE_HELD"),
        ({}, {"on_conflict": "refuse"}, "PACKAGE_CONFLICT"),
    ],
)
def test_refused_before_anything_changes(
    host: Host, installed: dict[str, Any], params: dict[str, Any], code: str
) -> None:
    host.installed.update(installed)
    with pytest.raises(FleetError) as caught:
        host.converge(**params)
    assert caught.value.code == code
    assert not [c for c in host.applied() if "install" in c]


def test_apt_may_remove_only_what_was_named(host: Host) -> None:
    host.also_removed = ["podman"]
    with pytest.raises(FleetError, match="podman"):
        host.converge()
    assert not [c for c in host.applied() if "install" in c]


def test_a_downgrade_that_is_allowed(host: Host) -> None:
    host.installed["docker-ce"] = ("ii ", "5:29.0-1")
    result = host.converge(allow_downgrade=True)
    assert result["upgraded"] == ["docker-ce"]
    assert "--allow-downgrades" in host.applied()[1]


def test_an_interrupted_dpkg_is_completed_first(host: Host) -> None:
    host.install_errors = ["E: dpkg was interrupted, you must manually run 'dpkg --configure -a'"]
    assert host.converge()["changed"]
    assert ["dpkg", "--configure", "-a", "--force-confdef", "--force-confold"] in host.calls


def test_steps_that_dpkg_left_undone_are_done_first(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.converge()
    monkeypatch.setattr(apt_packages, "UPDATES", tmp_path)
    assert not host.converge()["changed"]
    (tmp_path / "0003").touch()
    host.calls.clear()
    assert host.converge(check=True)["changed"]
    assert [c for c in host.calls if c[0] == "dpkg"] == []
    assert host.converge()["changed"]
    assert [c[1] for c in host.calls if c[0] == "dpkg"] == ["--configure"]


def test_a_broken_package_is_installed_again(host: Host) -> None:
    host.installed = {"docker-ce": ("iHR", NEW), "uidmap": ("ii ", "1:4.8-1")}
    assert host.converge()["changed"]
    assert "--reinstall" in host.applied()[1]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (
            "E: Could not get lock /var/lib/dpkg/lock-frontend.\nE: Unable to acquire the dpkg frontend lock",
            "APT_LOCKED",
        ),
        ("E: Failed to fetch http://mirror/x.deb  404  Not Found", "PACKAGE_INSTALL_FAILED"),
    ],
)
def test_apt_s_own_words(host: Host, error: str, code: str) -> None:
    host.install_errors = [error]
    with pytest.raises(FleetError) as caught:
        host.converge()
    assert caught.value.code == code
    assert error.splitlines()[0] in caught.value.detail


def test_all_that_comes_and_goes_is_in_the_journal_before_apt_acts(host: Host) -> None:
    host.also_installed = ["Inst libslirp0 (4.7-1 Debian:12 [amd64])"]
    host.installed["uidmap"] = ("rc ", "1:4.0-1")
    host.install_errors = ["E: killed"]
    with pytest.raises(FleetError):
        host.converge()
    assert Journal().entries(PACKAGE) == {"docker-ce": None, "uidmap": "config", "libslirp0": None}
    assert Journal().entries(REMOVED) == {"docker.io": "20.10-1"}


def test_settings_that_are_there_before_their_package_are_kept(host: Host, tmp_path: Path) -> None:
    by_hand = tmp_path / "config.toml"
    by_hand.write_text("own\n")
    wanted = [{"name": "docker-ce", "settings": [str(by_hand), str(tmp_path / "absent")]}]
    host.install_errors = ["E: killed"]
    with pytest.raises(FleetError):
        host.converge(packages=wanted)
    assert list(Journal().entries(FILE)) == [str(by_hand)]
    assert Journal().backup(str(by_hand)) == b"own\n"


def test_settings_of_a_package_that_is_there_are_its_owner_s(host: Host, tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    host.installed["docker-ce"] = ("ii ", OLD)
    host.converge(packages=[{"name": "docker-ce", "version": "28.5.2", "settings": [str(tmp_path / "config.toml")]}])
    assert Journal().entries(FILE) == {}


def test_an_upgrade_of_what_was_there_is_told_from_what_we_brought(host: Host) -> None:
    host.installed["docker-ce"] = ("ii ", OLD)
    host.converge()
    assert Journal().entries(UPGRADED) == {"docker-ce": OLD}
    assert list(Journal().entries(PACKAGE)) == ["uidmap"]


def test_what_we_brought_ourselves_is_neither_upgraded_nor_removed(host: Host) -> None:
    host.converge()
    host.installed["docker-ce"] = ("ii ", OLD)
    host.converge()
    assert Journal().entries(UPGRADED) == {}
    host.converge(packages=[{"name": "uidmap"}], conflicts=["docker-ce"])
    assert list(Journal().entries(REMOVED)) == ["docker.io"]


def test_check_mode_records_nothing(host: Host) -> None:
    host.converge(check=True)
    assert Journal().entries(PACKAGE) == {}


# --- holds ---------------------------------------------------------------------------------------
ENGINE: dict[str, Any] = {"packages": [{"name": "docker-ce", "version": "28.5.2"}], "held": ["docker-ce", "absent"]}


def test_a_hold_is_set_kept_and_taken_back(host: Host) -> None:
    host.installed = {}
    first = host.converge(**ENGINE)
    assert first["held"] == ["docker-ce"]
    assert first["diff"]["after"] == f"docker-ce {NEW} hold\n"
    assert "docker-ce" in Journal().entries(HOLD)
    host.calls.clear()
    assert not host.converge(**ENGINE)["changed"]
    assert host.marks() == []
    released = host.converge(**{**ENGINE, "held": [], "released": ["docker-ce"]})
    assert released["changed"] and released["released"] == ["docker-ce"]
    assert host.marks() == [["unhold", "docker-ce"]]
    assert Journal().entries(HOLD) == {}
    assert not host.converge(**{**ENGINE, "held": [], "released": ["docker-ce"]})["changed"]


def test_our_own_hold_is_lifted_for_an_upgrade_and_set_again(host: Host) -> None:
    host.installed = {"docker-ce": ("ii ", OLD)}
    host.converge(packages=[{"name": "docker-ce"}], held=["docker-ce"])
    host.calls.clear()
    assert host.converge(**ENGINE)["upgraded"] == ["docker-ce"]
    assert host.marks() == [["unhold", "docker-ce"], ["hold", "docker-ce"]]
    assert host.installed["docker-ce"] == ("hi ", NEW)


def test_our_own_hold_is_back_after_an_installation_that_failed(host: Host) -> None:
    host.installed = {"docker-ce": ("ii ", OLD)}
    host.converge(packages=[{"name": "docker-ce"}], held=["docker-ce"])
    host.install_errors = ["E: Failed to fetch http://mirror/x.deb  404  Not Found"]
    with pytest.raises(FleetError):
        host.converge(**ENGINE)
    assert host.installed["docker-ce"] == ("hi ", OLD)


def test_somebody_else_s_hold_is_not_ours_to_lift(host: Host) -> None:
    host.installed = {"docker-ce": ("hi ", NEW)}
    assert not host.converge(**ENGINE)["changed"]
    assert Journal().entries(HOLD) == {}
    assert not host.converge(**{**ENGINE, "held": [], "released": ["docker-ce"]})["changed"]
    host.installed = {"docker.io": ("hi ", "20.10-1")}
    with pytest.raises(FleetError, match=r"docker\.io 20\.10-1 is held"):
        host.converge()


def test_a_held_package_of_ours_can_be_replaced_by_another(host: Host) -> None:
    host.converge(packages=[], conflicts=[], held=["docker.io"])
    assert host.converge()["removed"] == ["docker.io"]
    assert Journal().entries(HOLD) == {}


def test_check_mode_predicts_holds(host: Host) -> None:
    host.installed = {}
    predicted = host.converge(check=True, **ENGINE)
    assert host.marks() == [] and Journal().entries(HOLD) == {}
    done = host.converge(**ENGINE)
    assert {k: predicted[k] for k in ("changed", "held", "diff")} == {k: done[k] for k in ("changed", "held", "diff")}


# --- versions ------------------------------------------------------------------------------------
def test_the_latest_is_what_is_offered_and_never_older(host: Host) -> None:
    latest: dict[str, Any] = {"packages": [{"name": "docker-ce", "version": "latest"}], "conflicts": []}
    host.installed = {"docker-ce": ("ii ", OLD)}
    assert host.converge(**latest)["versions"] == {"docker-ce": NEW}
    assert len([c for c in host.calls if "update" in c]) == 1
    assert not host.converge(**latest)["changed"]
    host.offered["docker-ce"] = [OLD]
    assert not host.converge(**latest)["changed"]


def test_the_latest_by_an_old_index_is_said(host: Host) -> None:
    host.installed = {"docker-ce": ("ii ", NEW)}
    host.update_error = "W: Failed to fetch http://mirror/InRelease  Could not connect to mirror"
    result = host.converge(packages=[{"name": "docker-ce", "version": "latest"}], conflicts=[])
    assert not result["changed"]
    assert [f["code"] for f in result["findings"]] == ["APT_INDEX_OLD"]


def test_a_version_below_the_floor_needs_to_be_named(host: Host) -> None:
    old: dict[str, Any] = {"packages": [{"name": "docker-ce", "version": "26.1.5", "minimum": "28.2"}]}
    with pytest.raises(FleetError, match="PACKAGE_TOO_OLD"):
        host.converge(**old)
    assert host.converge(**old, accept_versions=["26.1.5"])["versions"] == {"docker-ce": OLD}


# --- work that is in the way ----------------------------------------------------------------------
@pytest.fixture
def work(host: Host, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One user's running containers, on a host with an older engine."""
    names = ["training"]
    host.installed = {"docker-ce": ("ii ", OLD), "uidmap": ("ii ", "1:4.8-1")}
    monkeypatch.setattr(apt_packages, "account", lambda name: SimpleNamespace(socket=f"/run/{name}"))
    monkeypatch.setattr(apt_packages, "running", lambda _socket: names)
    monkeypatch.setattr(apt_packages, "told", str)
    return names


@pytest.mark.parametrize("when_busy", ["skip", "wait"])
@pytest.mark.parametrize("check", [True, False])
def test_an_engine_is_not_replaced_under_running_containers(
    host: Host, work: list[str], when_busy: str, check: bool
) -> None:
    result = host.converge(check=check, when_busy=when_busy)
    assert not result["changed"]
    assert result["pending"] == {"docker-ce": {"from": OLD, "to": NEW}}
    assert result["versions"]["docker-ce"] == OLD
    (found,) = result["findings"]
    assert found["code"] == "ENGINE_UPGRADE_PENDING"
    assert "trainer: training" in found["evidence"]
    assert [("--download-only" in c) for c in host.applied() if "install" in c] == [True] * (not check)
    work.clear()
    assert host.converge(check=check, when_busy=when_busy)["upgraded"] == ["docker-ce"]


def test_who_left_the_inventory_and_has_an_engine_still_works(host: Host, work: list[str]) -> None:
    Journal().add("engine", "guest")
    (found,) = host.converge(when_busy="skip", users=[])["findings"]
    assert found["code"] == "ENGINE_UPGRADE_PENDING" and "guest: training" in found["evidence"]


def test_it_is_when_that_is_asked_for(host: Host, work: list[str]) -> None:
    result = host.converge(when_busy="proceed")
    assert result["upgraded"] == ["docker-ce"] and result["pending"] == {} and result["findings"] == []


def test_what_no_engine_holds_is_upgraded_beside_running_containers(host: Host, work: list[str]) -> None:
    assert host.converge(programs=["containerd.io"])["upgraded"] == ["docker-ce"]


def test_a_half_installed_engine_is_repaired_in_any_case(host: Host, work: list[str]) -> None:
    host.installed["docker-ce"] = ("iHR", NEW)
    assert host.converge()["changed"]


def test_staging_fetches_and_changes_nothing(host: Host, work: list[str]) -> None:
    work.clear()
    result = host.converge(stage_only=True, held=["docker-ce"])
    assert not result["changed"] and result["findings"] == [] and host.marks() == []
    assert result["pending"] == {"docker-ce": {"from": OLD, "to": NEW}}
    assert [c for c in host.applied() if "install" in c and "--download-only" not in c] == []


def test_sources_that_only_the_run_puts_right_do_not_stop_check_mode(host: Host) -> None:
    host.unreadable = True
    result = host.converge(check=True)
    assert result["changed"]
    assert result["removed"] == ["docker.io"]
    assert "Conflicting values" in host.warnings[0]
    with pytest.raises(FleetError, match="PACKAGE_INSTALL_FAILED"):
        host.converge()
