"""Every way to break the mirror, and what apt says about it; the sound mirror goes through the same steps first."""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..server import MODES
from .conftest import Apt, fetched
from .test_build import ARCHITECTURE

UBUNTU = "/docker/linux/ubuntu"


@dataclass(frozen=True)
class Case:
    """What the key is, how `apt-get update` ends and how a download does; a text is looked for in what apt says."""

    key: str = "sound"
    update: int = 0
    update_says: str = ""
    download: int = 0
    download_says: str = ""


# apt from 3.0 on words signatures in another way (sqv in place of gpgv).
NO_KEY = "NO_PUBKEY|Missing key"
NO_CANDIDATE = "Unable to locate package|Couldn't find any package|Can't find a source"


def refused(says: str, key: str = "sound") -> Case:
    """apt takes nothing from the repository, and has nothing to download."""
    return Case(key, 100, says, 100, NO_CANDIDATE)


CASES = {
    "sound": Case(),
    "bad-key": refused(NO_KEY, key="another"),
    "not-a-key": refused(f"{NO_KEY}|is not signed", key="<!DOCTYPE html>"),
    "no-key": Case(key="404 Not Found"),
    "bad-signature": refused("BADSIG|Bad signature|invalid"),
    "other-signer": refused(NO_KEY),
    "expired": refused(r"is expired \(invalid since 20d"),
    "no-suite": refused("does not have a Release file"),
    "missing-package": Case(download=100, download_says="404  Not Found"),
    "hash-mismatch": Case(download=100, download_says="Hash Sum mismatch"),
    "truncated-package": Case(download=100, download_says="File has unexpected size"),
    # apt calls this a success: only what is on offer afterwards tells.
    "unreachable": Case("closed", 0, "Some index files failed to download", 100, NO_CANDIDATE),
}


def base(url: str, mode: str) -> str:
    return url if mode == "sound" else f"{url}/broken/{mode}"


def key_seen(address: str, sound: bytes) -> str:
    """What a role would see of the key, in the words of the table."""
    try:
        content = fetched(address)
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.reason}"
    except (http.client.RemoteDisconnected, ConnectionResetError):
        return "closed"
    if content == sound:
        return "sound"
    text = content.decode()
    return "another" if text.startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----") else text.splitlines()[0]


def test_every_mode_has_a_case() -> None:
    assert set(CASES) == {*MODES, "sound"}


@dataclass(frozen=True)
class Repository:
    """What a role is told of a repository, and a package in it."""

    root: str
    suite: str
    key: str
    package: str


DOCKER = Repository(UBUNTU, "jammy", f"{UBUNTU}/gpg", "docker-ce-rootless-extras")
NVIDIA_ROOT = "/libnvidia-container"
NVIDIA = Repository(
    f"{NVIDIA_ROOT}/stable/deb/{ARCHITECTURE}", "/", f"{NVIDIA_ROOT}/gpgkey", "nvidia-container-toolkit-base"
)


@pytest.mark.parametrize("repository", [DOCKER, NVIDIA], ids=["docker", "nvidia"])
@pytest.mark.parametrize("mode", CASES)
def test_apt(url: str, apt: Apt, mode: str, repository: Repository) -> None:
    case = CASES[mode]
    sound = fetched(url + repository.key)
    assert key_seen(base(url, mode) + repository.key, sound) == case.key
    key = fetched(base(url, mode) + repository.key) if case.key in ("another", "<!DOCTYPE html>") else sound
    apt.source(base(url, mode) + repository.root, repository.suite, key)

    update = apt.get("update")
    assert (update.status, bool(re.search(case.update_says, update.text))) == (case.update, True), update.text
    if not case.update_says:
        assert not re.search("^[WE]:", update.text, re.M)

    download = apt.get("download", repository.package)
    assert (download.status, bool(re.search(case.download_says, download.text))) == (case.download, True), download.text
    assert len(list(apt.folder.glob(f"{repository.package}*.deb"))) == (case.download == 0)


def test_a_broken_path_disturbs_no_other(url: str, apt: Apt) -> None:
    for mode in MODES:
        key_seen(f"{url}/broken/{mode}{UBUNTU}/gpg", b"")
    apt.source(f"{url}{UBUNTU}", "jammy", fetched(f"{url}{UBUNTU}/gpg"))
    assert apt.get("update").status == 0


def test_everything_can_be_broken_at_once_and_mended(url: str, mode_file: Path) -> None:
    address = f"{url}{UBUNTU}/gpg"
    sound = fetched(address)
    try:
        mode_file.write_text("bad-key\n", encoding="utf-8")
        assert key_seen(address, sound) == "another"
        mode_file.write_text("unreachable\n", encoding="utf-8")
        assert key_seen(address, sound) == "closed"
    finally:
        mode_file.unlink()
    assert key_seen(address, sound) == "sound"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/docker/",
        "/docker/linux/ubuntu/dists",
        "/broken",
        "/broken/",
        "/broken/bad-key",
        "/broken/no-such-mode/docker/linux/ubuntu/gpg",
        "/../gnupg/pubring.kbx",
        "/%2e%2e/gnupg/pubring.kbx",
        "/docker/linux/ubuntu/gp",
    ],
)
def test_what_is_not_published_is_not_found(url: str, path: str) -> None:
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    connection.request("GET", path)
    answer = connection.getresponse()
    assert (answer.status, answer.reason) == (404, "Not Found")


def test_an_unchanged_index_is_not_sent_again(url: str) -> None:
    address = f"{url}{UBUNTU}/dists/jammy/InRelease"
    with urllib.request.urlopen(address) as answer:
        modified = answer.headers["Last-Modified"]
    request = urllib.request.Request(address, headers={"If-Modified-Since": modified})
    with pytest.raises(urllib.error.HTTPError, match="304"):
        urllib.request.urlopen(request)
