"""The controller's cache of wheels."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.plugin_utils import _wheels


def wheel(folder: Path, name: str, text: str) -> str:
    """A wheel with one module; its hash."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as content:
        content.writestr(zipfile.ZipInfo(f"{name}/__init__.py"), text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """A lock of two pins, with their wheels in tmp_path/index."""
    index = tmp_path / "index"
    index.mkdir()
    one, two = wheel(index, "one", "ONE = 1\n"), wheel(index, "two", "TWO = 2\n")
    path = tmp_path / "target.txt"
    path.write_text(
        f"one==1.0 \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{one}\n    # via two\ntwo==1.0 \\\n    --hash=sha256:{two}\n"
    )
    return path


def fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for pip: copies the wheels of the index; notes each call."""
    calls: list[str] = []

    def download(folder: Path, _lock: Path, index: str) -> None:
        calls.append(index)
        folder.mkdir()
        for path in (tmp_path / "index").glob("*.whl"):
            (folder / path.name).write_bytes(path.read_bytes())

    monkeypatch.setattr(_wheels, "download", download)
    return calls


def test_pins(lock: Path) -> None:
    found = _wheels.pins(lock.read_text())
    assert {pin: len(hashes) for pin, hashes in found.items()} == {"one==1.0": 2, "two==1.0": 1}


def test_the_shipped_lock_pins_what_targets_need() -> None:
    found = _wheels.pins(_wheels.LOCK.read_text(encoding="utf-8"))
    assert {pin.split("==")[0] for pin in found} == {
        "certifi",
        "charset-normalizer",
        "docker",
        "idna",
        "nvidia-ml-py",
        "requests",
        "urllib3",
    }
    assert all(found.values())


def test_fetched_once_and_packed_the_same(lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fetch(tmp_path, monkeypatch)
    first = _wheels.provide(lock, "https://mirror.example", tmp_path / "cache")
    content = first.read_bytes()
    assert _wheels.provide(lock, "", tmp_path / "cache") == first
    assert calls == ["https://mirror.example"]
    assert first.parent.name == _wheels.digest_of(lock.read_text())
    assert _wheels.provide(lock, "", tmp_path / "other").read_bytes() == content
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert archive.getnames() == ["one/__init__.py", "two/__init__.py"]


def test_wheels_put_there_by_hand_are_enough(lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fetch(tmp_path, monkeypatch)
    folder = tmp_path / "cache" / _wheels.digest_of(lock.read_text())
    folder.mkdir(parents=True)
    for path in (tmp_path / "index").glob("*.whl"):
        (folder / path.name).write_bytes(path.read_bytes())
    _wheels.provide(lock, "", tmp_path / "cache")
    assert calls == []


def test_a_wheel_with_another_hash_does_not_count(lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(tmp_path, monkeypatch)
    wheel(tmp_path / "index", "two", "TWO = 'tampered'\n")
    with pytest.raises(FleetError) as raised:
        _wheels.provide(lock, "", tmp_path / "cache")
    assert raised.value.code == "PROOF_WHEELS_UNAVAILABLE"
    assert "two==1.0" in raised.value.detail
    assert not list((tmp_path / "cache").glob("**/*.tar.gz"))


def test_an_index_without_the_wheels(lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(FleetError) as raised:
        _wheels.provide(lock, "http://127.0.0.1:9/simple", tmp_path / "cache")
    assert raised.value.code == "PROOF_WHEELS_UNAVAILABLE"
    assert [path.name for path in (tmp_path / "cache").glob(".*")] == [".lock"]
