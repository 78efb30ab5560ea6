"""The server as a background process: on, off, broken, mended, and never mistaken for another process."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ... import settings
from .. import cli, control
from .conftest import fetched

KEY = "/docker/linux/ubuntu/gpg"


@pytest.fixture
def state(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mirror of these tests alone: own state, own port, the lab's cache."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setattr(settings, "STATE", tmp_path)
    monkeypatch.setattr(settings, "GATEWAY", "127.0.0.1")
    monkeypatch.setattr(control, "PORT", port)
    return tmp_path / "mirror"


def test_up_twice_down_twice(state: Path) -> None:
    try:
        first = control.up()
        assert first["running"]
        assert fetched(first["url"] + KEY).startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----")
        assert fetched(first["desktop_url"])
        started = time.monotonic()
        assert control.up()["pid"] == first["pid"]
        assert time.monotonic() - started < 1
    finally:
        assert control.down()
    assert not control.down()
    assert control.status()["pid"] is None
    with pytest.raises(urllib.error.URLError, match="refused"):
        fetched(first["url"] + KEY)


def test_several_at_once_start_one_server(state: Path) -> None:
    try:
        with ThreadPoolExecutor(4) as pool:
            found = {status["pid"] for status in pool.map(lambda _: control.up(), range(4))}
        assert len(found) == 1
        assert None not in found
    finally:
        control.down()


def test_another_checkout_finds_the_same_server(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = control.up()["pid"]
    try:
        copy = tmp_path / "server.py"
        copy.write_bytes(control.SERVER.read_bytes())
        monkeypatch.setattr(control, "SERVER", copy)
        assert control.up()["pid"] == first
    finally:
        control.down()


def test_status_names_key_and_versions(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = control.status()
    assert not status["running"]
    assert len(status["fingerprint"]) == 40
    assert set(status["versions"]) == {"26.1.5", "28.5.2"}
    assert status["versions"]["28.5.2"]["docker-ce"] == "28.5.2"
    assert cli.main(["status"]) == 0
    shown = capsys.readouterr().out
    assert f"signed by {status['fingerprint']}" in shown
    assert "is down" in shown


def test_the_fingerprint_is_that_of_the_served_key(site: Path, state: Path, tmp_path: Path) -> None:
    shown = subprocess.run(
        ["gpg", "--homedir", tmp_path, "--with-colons", "--show-keys", f"{site}{KEY}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f":{control.status()['fingerprint']}:" in shown.stdout


def test_break_and_mend(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = control.up()["url"]
    try:
        sound = fetched(url + KEY)
        assert cli.main(["break", "bad-key"]) == 0
        assert control.status()["broken"] == "bad-key"
        assert fetched(url + KEY) != sound
        assert cli.main(["mend"]) == 0
        assert control.status()["broken"] is None
        assert fetched(url + KEY) == sound
        with pytest.raises(settings.LabError, match="no such mode"):
            control.break_("sideways")
    finally:
        control.down()


def test_a_server_of_older_code_is_replaced(state: Path) -> None:
    first = control.up()["pid"]
    try:
        (state / "program").write_text("older", encoding="utf-8")
        assert control.up()["pid"] != first
    finally:
        control.down()


def test_a_killed_server_is_started_again(state: Path) -> None:
    first = control.up()["pid"]
    try:
        subprocess.run(["kill", "-9", str(first)], check=True)
        time.sleep(0.2)
        assert not control.status()["running"]
        second = control.up()
        assert second["running"]
        assert second["pid"] != first
    finally:
        control.down()


def test_a_process_that_inherited_the_number_is_left_alone(state: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        state.mkdir()
        (state / "pid").write_text(f"{stranger.pid}\n", encoding="utf-8")
        assert not control.status()["running"]
        assert not control.down()
        assert stranger.poll() is None
        stranger.kill()


def test_it_can_listen_before_the_bridge_is_there(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "GATEWAY", "192.0.2.77")
    try:
        assert control.up()["running"]
    finally:
        control.down()


def test_a_taken_port_is_said(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", control.PORT))
        other.listen()
        assert cli.main(["up"]) == 1
    assert "Address already in use" in capsys.readouterr().err
