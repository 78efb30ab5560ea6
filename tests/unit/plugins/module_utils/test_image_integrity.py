"""Damaged images: which are looked at, what counts as damage, and what goes with them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _image_integrity
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account


class Engine:
    """Images by id: their names and layers; a broken layer breaks each image that has it."""

    def __init__(self, home: Path, images: dict[str, tuple[list[str], list[str]]], broken: str, held: str = "") -> None:
        self.user = Account("u", 1, 1, home)
        self.images, self.broken, self.held = images, broken, held
        self.read: list[str] = []
        self.env: dict[str, str] = {}
        self.synced = 0

    def api(self, question: str) -> Any:
        if question == "/info":
            return {"DockerRootDir": "/nowhere"}
        if question.startswith("/images/json"):
            return [{"Id": image} for image in self.images]
        names, layers = self.images[question.split("/")[2]]
        return {"RepoTags": names, "RootFS": {"Layers": layers}}

    def docker(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        assert arguments[:2] == ("rmi", "--force")
        for image in [image for image, (names, _) in self.images.items() if {image, *names} & set(arguments[2:])]:
            if image != self.held:
                del self.images[image]
        return subprocess.CompletedProcess(arguments, 0, "", "conflict: container cafe is using it")

    def intact(self, image: str) -> bool:
        self.read.append(image)
        return self.broken not in self.images[image][1]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine(tmp_path, {"a": (["x:1", "x:2"], ["l1", "l2"]), "b": ([], ["l2"]), "c": (["y:1"], ["l1"])}, "l2")

    def sync(_folder: str) -> None:
        made.synced += 1

    monkeypatch.setattr(_image_integrity, "intact", lambda project, image: project.intact(image))
    monkeypatch.setattr(_image_integrity, "sync", sync)
    return made


def test_what_is_whole_is_read_once(engine: Any) -> None:
    engine.broken = ""
    assert _image_integrity.mend(engine, ["a", "c", "a"], check=True) == []
    assert _image_integrity.mend(engine, ["a", "c", "a"]) == []
    assert engine.read == ["a", "c", "a", "c"], "a look in check mode notes nothing down"
    assert _image_integrity.mend(engine, ["a", "c"]) == []
    assert len(engine.read) == 4
    assert engine.synced == 1


def test_what_a_run_brought_in_is_not_read_and_the_rest_is(engine: Any) -> None:
    _image_integrity.record_synced(engine, ["c"])
    assert _image_integrity.unread(engine, ["a", "c"]) == ["a"], "one that somebody else brought may be damaged"
    del engine.images["c"]
    _image_integrity.record_synced(engine, [])
    assert _image_integrity.unread(engine, ["c"]) == ["c"], "an image that went and came back is a new one"


@pytest.mark.parametrize("text", ["", "[]", '{"synced": 5}', "{"])
def test_a_record_that_cannot_be_read_means_looking(engine: Any, text: str) -> None:
    path = engine.user.home / ".local" / "state" / "gpulab" / "images.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert _image_integrity.synced(engine.user.home) == set()


def test_images_that_share_the_broken_layer_go_as_well_and_whole_ones_stay(engine: Any) -> None:
    assert _image_integrity.mend(engine, ["a"], check=True) == ["remove damaged image a"]
    assert len(engine.images) == 3
    assert _image_integrity.mend(engine, ["a"]) == ["remove damaged image x:1, x:2", "remove damaged image b"]
    assert list(engine.images) == ["c"]
    assert _image_integrity.mend(engine, ["c"]) == []


def test_one_that_cannot_go_is_named(engine: Any) -> None:
    engine.held = "a"
    with pytest.raises(FleetError) as caught:
        _image_integrity.mend(engine, ["a"])
    assert caught.value.code == "STACK_IMAGE_DAMAGED"
    assert "x:1, x:2" in caught.value.detail
    assert "cafe" in caught.value.detail


@pytest.mark.parametrize(
    ("said", "whole"),
    [
        ('Error response from daemon: file integrity checksum failed for "opt/x"', False),
        ("Error response from daemon: open /home/u/docker/overlay2/ab12/diff/x: no such file or directory", False),
        ("Cannot connect to the Docker daemon at unix:///run/user/1/docker.sock. Is the docker daemon running?", None),
        ("dial unix /run/user/1/docker.sock: connect: no such file or directory", None),
        ("unexpected EOF", None),
    ],
)
def test_only_damage_counts_as_damage(tmp_path: Path, said: str, whole: bool | None) -> None:
    """A docker that cannot save: an engine that goes down while it is asked must not cost an image."""
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\ncat >&2 <<'EOT'\n{said}\nEOT\nexit 1\n")
    docker.chmod(0o755)
    project: Any = Engine(tmp_path, {}, "")
    project.env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    if whole is None:
        with pytest.raises(FleetError, match="STACK_ENGINE_DOWN"):
            _image_integrity.intact(project, "sha256:1")
    else:
        assert _image_integrity.intact(project, "sha256:1") is whole
