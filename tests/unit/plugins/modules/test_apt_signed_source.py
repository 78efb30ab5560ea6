"""apt_signed_source: what it writes, what it refuses, and that it then leaves everything alone."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._apt_takeover import MARK, Entry, entries
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import FILE, Journal
from ansible_collections.gpulab.fleet.plugins.modules import apt_signed_source as module_under_test
from ansible_collections.gpulab.fleet.plugins.modules.apt_signed_source import (
    HEADER,
    Source,
    render,
)

from ..module_utils.openpgp_keys import ONE, ONE_FINGERPRINT, TWO, TWO_FINGERPRINT

URI = "https://download.docker.com/linux/ubuntu"
FLAT = "https://nvidia.github.io/libnvidia-container/stable/deb/$(ARCH)"


class Failed(Exception):
    pass


class Host:
    """A host's /etc/apt, and a web server with a key."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.served: bytes | None = ONE.encode()
        self.fetched = 0
        (root / "sources.list.d").mkdir()
        monkeypatch.setattr(module_under_test, "fetch_url", self.fetch)

    def fetch(self, _module: Any, _url: str, timeout: int) -> tuple[Any, dict[str, Any]]:
        self.fetched += 1
        assert timeout
        if self.served is None:
            return None, {"status": -1, "msg": "Connection refused"}
        return io.BytesIO(self.served), {"status": 200, "msg": "OK"}

    def source(self, check: bool = False, **params: Any) -> Source:
        def fail(**result: Any) -> None:
            raise Failed(f"{result['finding']['code']} {result['msg']}")

        defaults = {
            "name": "docker",
            "uris": [URI],
            "suites": ["jammy"],
            "components": ["stable"],
            "architectures": [],
            "key_url": f"{URI}/gpg",
            "key_fingerprint": ONE_FINGERPRINT,
            "replaces": [],
            "proxy": {},
        }
        module: Any = SimpleNamespace(
            params={**defaults, **params},
            check_mode=check,
            no_log_values=set(),
            fail_json=fail,
            run_command=lambda argv, check_rc: (0, "amd64\n", ""),
        )
        return Source(module, str(self.root))

    def files(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.root)): p.read_bytes() for p in self.root.rglob("*") if p.is_file()}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_first_run_writes_both_files_second_none(host: Host) -> None:
    first = host.source().present()
    assert first["changed"]
    assert first["fingerprint"] == ONE_FINGERPRINT
    key = host.root / "keyrings/docker.asc"
    assert key.stat().st_mode & 0o777 == 0o644
    assert key.read_text() == ONE
    assert (host.root / "sources.list.d/docker.sources").read_text() == (
        f"{HEADER}\nTypes: deb\nURIs: {URI}\nSuites: jammy\nComponents: stable\nArchitectures: amd64\nSigned-By: {key}\n"
    )
    before = host.files()
    second = host.source().present()
    assert not second["changed"]
    assert second["diff"] == []
    assert host.files() == before
    assert host.fetched == 1


def test_check_mode_predicts_without_fetching(host: Host) -> None:
    result = host.source(check=True).present()
    assert result["changed"]
    assert [d["after_header"] for d in result["diff"]] == [result["files"][1], result["files"][0]]
    assert host.files() == {}
    assert host.fetched == 0


@pytest.mark.parametrize(
    ("change", "fetches"),
    [
        ({"uris": ["http://mirror/ubuntu"]}, 1),
        ({"suites": ["noble"]}, 1),
        ({"architectures": ["arm64"]}, 1),
        ({"key_url": "http://elsewhere/gpg"}, 1),  # the key is there already
        ({"key_fingerprint": TWO_FINGERPRINT}, 2),
    ],
)
def test_changed_settings_update_the_files(host: Host, change: dict[str, Any], fetches: int) -> None:
    host.source().present()
    host.served = TWO.encode() if "key_fingerprint" in change else ONE.encode()
    assert host.source(**change).present()["changed"] is ("key_url" not in change)
    assert not host.source(**change).present()["changed"]
    assert host.fetched == fetches


def test_a_flat_repository_has_no_components(host: Host) -> None:
    text = render([FLAT], ["/"], [], ["amd64"], "/k.asc")
    assert "Components" not in text
    assert "Suites: /\n" in text


@pytest.mark.parametrize(
    ("served", "code"),
    [
        (None, "KEY_UNREACHABLE"),
        (b"<html>", "KEY_INVALID"),
        (TWO.encode(), "KEY_FINGERPRINT_MISMATCH"),
        ((ONE + TWO).encode(), "KEY_FINGERPRINT_MISMATCH"),  # apt would trust both
    ],
)
def test_a_key_that_will_not_do_writes_nothing(host: Host, served: bytes | None, code: str) -> None:
    host.served = served
    with pytest.raises(FleetError) as caught:
        host.source().present()
    assert caught.value.code == code
    assert host.files() == {}


@pytest.mark.parametrize("damage", ["mode", "content"])
def test_a_key_that_apt_cannot_use_is_fetched_again(host: Host, damage: str) -> None:
    host.source().present()
    key = host.root / "keyrings/docker.asc"
    if damage == "mode":
        key.chmod(0o600)
    else:
        key.write_text("<html>")
    assert host.source().present()["changed"]
    assert key.read_text() == ONE
    assert key.stat().st_mode & 0o777 == 0o644


OTHER_KEY = "signed-by=/usr/share/keyrings/docker.gpg"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("docker.list", f"deb [arch=amd64 {OTHER_KEY}] {URI} jammy stable\n"),
        ("docker.list", f"deb [{OTHER_KEY}] {URI}/ jammy stable\n"),
        ("anything.list", f"deb [arch=amd64] {URI} jammy stable\n"),
        ("anything.list", f"deb {URI.replace('https', 'http')} jammy stable # by hand\n"),
        ("x.sources", f"Types: deb\nURIs: {URI}\nSuites: noble jammy\nSigned-By: /etc/apt/keyrings/d.gpg\n"),
        ("x.sources", f"URIs: {URI}\nSuites: jammy\nSigned-By:\n -----BEGIN PGP\n .\n"),
        ("x.sources", f"# mine\nEnabled: yes\nURIs: {URI}\nSuites: jammy\n\n\nURIs: http://x\nSuites: y\n"),
    ],
)
def test_another_source_is_taken_over_and_given_back(host: Host, name: str, text: str) -> None:
    path = host.root / "sources.list.d" / name
    path.write_text(text)
    with_more: dict[str, Any] = {"replaces": [URI]} if "noble" in text else {}
    predicted = host.source(check=True, **with_more).present()
    assert path.read_text() == text
    done = host.source(**with_more).present()
    assert predicted == done
    assert done["taken_over"] == [str(path)]
    assert [d["after_header"] for d in done["diff"]][-1] == str(path)
    assert URI not in str(entries(str(path), path.read_text()))
    assert "http://x" in str(entries(str(path), path.read_text())) or "http://x" not in text
    assert not host.source(**with_more).present()["changed"]
    kept = Journal().entries(FILE)[str(path)]
    assert (Journal().folder / kept["backup"]).read_text() == text
    assert host.source(state="absent", **with_more).absent()["changed"]
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("docker.list", f"#deb [{OTHER_KEY}] {URI} jammy stable\n"),
        ("docker.list", f"deb [{OTHER_KEY}] {URI} noble stable\n"),
        ("docker.list", f"deb [signed-by=OWN] {URI} jammy other\n"),
        ("docker.list.save", f"deb [{OTHER_KEY}] {URI} jammy stable\n"),
        ("x.sources", f"Enabled: no\nURIs: {URI}\nSuites: jammy\nSigned-By: /etc/apt/keyrings/d.gpg\n"),
        ("x.sources", f"URIs: http://archive {URI}\nSuites: jammy\n"),
    ],
)
def test_what_is_no_other_source_stays(host: Host, name: str, text: str) -> None:
    text = text.replace("OWN", str(host.root / "keyrings/docker.asc"))
    (host.root / "sources.list.d" / name).write_text(text)
    assert host.source().present()["taken_over"] == []
    assert (host.root / "sources.list.d" / name).read_text() == text


@pytest.mark.parametrize(
    "text",
    [
        f"URIs: http://archive {URI}\nSuites: jammy\nSigned-By: /k.gpg\n",
        f"URIs: {URI}\nSuites: jammy\nComponents: main\nSigned-By: /k.gpg\n",
    ],
    ids=["other addresses beside it", "other components of one mirror"],
)
def test_what_cannot_be_taken_over_and_would_stop_apt_is_refused(host: Host, text: str) -> None:
    (host.root / "sources.list.d/x.sources").write_text(text)
    before = host.files()
    for check in (True, False):
        with pytest.raises(Failed, match="APT_SOURCE_CONFLICT") as caught:
            host.source(check=check).present()
        assert "x.sources" in str(caught.value)
    assert host.files() == before


def test_a_line_among_others_is_switched_off_alone(host: Host) -> None:
    text = f"deb http://archive jammy main\n\n# docker\ndeb {URI} jammy stable\ndeb http://archive jammy-updates main\n"
    (host.root / "sources.list").write_text(text)
    host.source().present()
    assert (host.root / "sources.list").read_text() == text.replace("deb https", f"{MARK} deb https")


NVIDIA = "https://nvidia.github.io"


def test_old_addresses_of_the_vendor_are_replaced_in_any_suite(host: Host) -> None:
    text = (
        f"deb [{OTHER_KEY}] {NVIDIA}/libnvidia-container/stable/deb/$(ARCH) /\n"
        f"deb [{OTHER_KEY}] {NVIDIA}/libnvidia-container/experimental/deb/$(ARCH) /\n"
        f"deb {NVIDIA}/nvidia-docker/ubuntu18.04/$(ARCH) /\n"
        f"deb {NVIDIA}/nvidia-dockerish/ubuntu18.04/$(ARCH) /\n"
    )
    path = host.root / "sources.list.d/nvidia-container-toolkit.list"
    path.write_text(text)
    flat: dict[str, Any] = {
        "name": "nvidia-container-toolkit",
        "uris": ["http://mirror/nvidia/$(ARCH)"],
        "suites": ["/"],
        "components": [],
        "replaces": [f"{NVIDIA}/libnvidia-container", f"{NVIDIA}/nvidia-docker"],
    }
    assert host.source(**flat).present()["taken_over"] == [str(path)]
    assert [entry.uri for entry in entries(str(path), path.read_text())] == [
        f"{NVIDIA}/nvidia-dockerish/ubuntu18.04/$(ARCH)"
    ]


def test_absent_removes_only_what_it_wrote(host: Host) -> None:
    host.source().present()
    assert host.source(check=True, state="absent").absent()["changed"]
    assert host.source().absent()["changed"]
    assert host.files() == {}
    assert not host.source().absent()["changed"]
    theirs = host.root / "sources.list.d/docker.sources"
    theirs.write_text(f"Types: deb\nURIs: {URI}\nSuites: jammy\n")
    assert not host.source().absent()["changed"]
    assert theirs.exists()


def test_parsers_skip_what_is_not_a_source() -> None:
    lines = entries("a.list", "\n# deb x y\n deb-src [arch=amd64] http://a b c d # e\n")
    assert lines == [Entry("http://a", "b", ("c", "d"), "")]
    both = entries("a.sources", "# nothing\n\nTypes: deb\nURIs: a b\nSuites: c\n")
    assert both == [Entry("a", "c", (), ""), Entry("b", "c", (), "")]
