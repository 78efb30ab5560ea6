"""The mirror as built in the lab's cache, a server of it for these tests alone, and an apt that asks that server."""

from __future__ import annotations

import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ... import settings
from .. import build, deb
from ..server import Server


@pytest.fixture(scope="session")
def site() -> Path:
    return build.build(settings.CACHE, settings.say)


@pytest.fixture(scope="session")
def mode_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "mode"


@pytest.fixture(scope="session")
def url(site: Path, mode_file: Path) -> Iterator[str]:
    with Server(("127.0.0.1", 0), site, mode_file) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@dataclass(frozen=True)
class Said:
    status: int
    text: str


class Apt:
    """apt-get with sources, lists and keys of its own, as strict as apt is by default."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in ("lists/partial", "cache/archives/partial", "sources", "none"):
            (folder / part).mkdir(parents=True)
        (folder / "status").touch()
        self.settings = folder / "apt.conf"
        self.settings.write_text(
            f'Dir::Etc::SourceList "{folder}/none/list";\nDir::Etc::SourceParts "{folder}/sources";\n'
            f'Dir::Etc::PreferencesParts "{folder}/none";\nDir::Cache "{folder}/cache";\n'
            f'Dir::State "{folder}";\nDir::State::status "{folder}/status";\n'
            'APT::Sandbox::User "root";\nAcquire::Retries "0";\n'
            'Acquire::Check-Date "true";\nAcquire::Check-Valid-Until "true";\nAcquire::Languages "none";\n'
            "#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n"
            'Acquire::http::Proxy "DIRECT";\n',
            encoding="utf-8",
        )

    def source(self, uri: str, suite: str, key: bytes) -> None:
        keyring = self.folder / "key.asc"
        keyring.write_bytes(key)
        components = "" if suite.endswith("/") else "Components: stable\n"
        (self.folder / "sources/lab.sources").write_text(
            f"Types: deb\nURIs: {uri}\nSuites: {suite}\n{components}Architectures: {deb.architecture()}\n"
            f"Signed-By: {keyring}\n",
            encoding="utf-8",
        )

    def get(self, *words: str) -> Said:
        command = ["env", "LC_ALL=C", "apt-get", f"--config-file={self.settings}", "--quiet", *words]
        done = subprocess.run(
            command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        return Said(done.returncode, done.stdout)


@pytest.fixture
def apt(tmp_path: Path) -> Apt:
    return Apt(tmp_path / "apt")


def fetched(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return bytes(answer.read())
