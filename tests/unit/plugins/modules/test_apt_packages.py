"""apt_packages: one apt call when something differs, none otherwise, and a reason when it cannot be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import PACKAGE, REMOVED, UPGRADED, Journal
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

    def run(self, argv: list[str], environ_update: dict[str, str] | None = None) -> tuple[int, str, str]:
        self.calls.append(argv)
        if argv[0] == "dpkg-query":
            rows = [f"{n}\t{s}\t{v}\n" for n, (s, v) in self.installed.items() if n in argv]
            return int(len(rows) < len(argv) - 4), "".join(rows), ""
        assert environ_update is None or environ_update["LC_ALL"] == "C"
        if argv[0] == "apt-cache":
            return 0, "".join(self.policy(n) for n in argv[2:] if n in self.offered), ""
        if argv[:2] == ["dpkg", "--compare-versions"]:
            return int(not argv[2] < argv[4]), "", ""
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
        }
        module: Any = SimpleNamespace(
            params={**defaults, **params},
            check_mode=check,
            fail_json=fail,
            run_command=self.run,
            warn=self.warnings.append,
        )
        return Packages(module).converge()

    def applied(self) -> list[list[str]]:
        """The calls that change something."""
        return [c for c in self.calls if c[0] == "apt-get" and "--simulate" not in c]


@pytest.fixture
def host() -> Host:
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
    assert host.warnings == ["not offered by the sources as they are now: docker-ce 28.5.2, uidmap"]


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
    assert ["dpkg", "--configure", "-a", "--force-confdef"] in host.calls


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
