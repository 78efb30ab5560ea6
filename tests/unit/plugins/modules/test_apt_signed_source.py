"""apt_signed_source: what it writes, what it refuses, and that it then leaves everything alone."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.modules import apt_signed_source as module_under_test
from ansible_collections.gpulab.fleet.plugins.modules.apt_signed_source import (
    HEADER,
    Source,
    conflicts,
    deb822_sources,
    one_line_sources,
    render,
    same_repository,
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
        }
        module: Any = SimpleNamespace(
            params={**defaults, **params},
            check_mode=check,
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


@pytest.mark.parametrize(
    ("name", "text", "refused"),
    [
        ("docker.list", f"deb [arch=amd64 signed-by=/usr/share/keyrings/docker.gpg] {URI} jammy stable\n", True),
        ("docker.list", f"deb [signed-by=/usr/share/keyrings/docker.gpg] {URI}/ jammy stable\n", True),
        ("docker.list", f"#deb [signed-by=/usr/share/keyrings/docker.gpg] {URI} jammy stable\n", False),
        ("docker.list", f"deb [arch=amd64] {URI} jammy stable\n", False),
        ("docker.list", f"deb [signed-by=OWN] {URI} jammy stable\n", False),
        ("docker.list", f"deb [signed-by=/usr/share/keyrings/docker.gpg] {URI} noble stable\n", False),
        ("docker.list.save", f"deb [signed-by=/usr/share/keyrings/docker.gpg] {URI} jammy stable\n", False),
        ("x.sources", f"Types: deb\nURIs: {URI}\nSuites: noble jammy\nSigned-By: /etc/apt/keyrings/d.gpg\n", True),
        ("x.sources", f"Enabled: no\nURIs: {URI}\nSuites: jammy\nSigned-By: /etc/apt/keyrings/d.gpg\n", False),
        ("x.sources", f"URIs: {URI}\nSuites: jammy\nSigned-By:\n -----BEGIN PGP\n .\n", True),
    ],
)
def test_another_source_for_the_same_repository(host: Host, name: str, text: str, refused: bool) -> None:
    text = text.replace("OWN", str(host.root / "keyrings/docker.asc"))
    (host.root / "sources.list.d" / name).write_text(text)
    before = host.files()
    if not refused:
        assert host.source().present()["changed"]
        return
    for check in (True, False):
        with pytest.raises(Failed, match="APT_SOURCE_CONFLICT") as caught:
            host.source(check=check).present()
        assert name in str(caught.value)
    assert host.files() == before


def test_the_vendor_s_own_instructions_for_a_flat_repository_conflict() -> None:
    line = f"deb [signed-by=/usr/share/keyrings/nvidia-container-toolkit-keyring.gpg] {FLAT} /\n"
    wanted = {same_repository(FLAT.replace("$(ARCH)", "amd64"), "/", "amd64")}
    assert [path for path, _ in conflicts({"n.list": line}, wanted, "/etc/apt/keyrings/n.asc", "amd64")] == ["n.list"]


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
    assert one_line_sources("\n# deb x y\n deb-src http://a b c\n") == [("http://a", "b", "")]
    assert deb822_sources("# nothing\n\nTypes: deb\nURIs: a b\nSuites: c\n") == [("a", "c", ""), ("b", "c", "")]
