"""Room on the disk is asked for before an image is brought in, built or fetched; never for one that is here."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _disk_room, _release_images
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._release_images import Images
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account


class Engine:
    """Has one image, and a disk that is as full as the test says."""

    user = Account("u", 1, 1, Path("/nowhere"))

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def images(self) -> dict[str, str]:
        return {"here:1": "sha256:1"}

    def api(self, question: str) -> dict[str, Any]:
        assert question == "/info"
        return {"DockerRootDir": str(self.folder)}


def never(*_arguments: str) -> subprocess.CompletedProcess[str]:
    raise AssertionError("the disk is full")


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Images:
    monkeypatch.setattr(_disk_room, "free", lambda _path: (1 << 30, 1 << 40))
    monkeypatch.setattr(_release_images, "mend", lambda *_arguments: [])
    project: Any = Engine(tmp_path)
    return Images(project, "s", False, never)


@pytest.mark.parametrize(
    ("services", "builds"), [({"a": {"image": "gone:1"}}, {}), ({"a": {"build": {"context": "."}}}, {"a": "digest"})]
)
def test_a_full_disk_is_said_before_anything_is_made(
    images: Images, services: dict[str, Any], builds: dict[str, str]
) -> None:
    with pytest.raises(FleetError) as caught:
        images.find(services, builds, [])
    assert caught.value.code == "STACK_DISK_ROOM"
    assert "1.0 GiB of 1.0 TiB" in caught.value.detail


def test_an_archive_needs_room_of_its_size(images: Images, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"x" * 10)
    with (tmp_path / "a.tar").open("rb") as file, pytest.raises(FleetError, match=r"10 B are needed"):
        images.bring_in([{"name": "a:1", "sha256": "cafe"}], {"a:1": file.fileno()})


def test_what_is_here_needs_none(images: Images) -> None:
    images.find({"a": {"image": "here:1"}}, {}, [])
    assert images.found == {"a": ("sha256:1", "")}


@pytest.mark.parametrize(
    ("stack", "service", "tag"),
    [
        ("robot", "web", "gpulab/robot-web:0123456789ab"),
        ("a_", "Web_1", "gpulab/a-web-1:0123456789ab"),
        ("a--b", "x.y", "gpulab/a-b-x-y:0123456789ab"),
    ],
)
def test_a_tag_is_a_name_that_an_image_may_have(stack: str, service: str, tag: str) -> None:
    assert _release_images.tag_of(stack, service, "sha256:0123456789abcdef") == tag


class Builder(Engine):
    """Has what a deploy that was cut off had built; a build takes its name away. `kept` still names that image."""

    def __init__(self, folder: Path, kept: dict[str, str]) -> None:
        super().__init__(folder)
        self.named = {"s-a:latest": "sha256:old", **kept}
        self.removed: list[str] = []

    def images(self) -> dict[str, str]:
        return dict(self.named)

    def docker(self, *arguments: str) -> None:
        assert arguments[0] == "rmi"
        self.removed += arguments[1:]


@pytest.mark.parametrize(
    ("kept", "removed"),
    [({}, ["sha256:old"]), ({"gpulab/s-a:0123456789ab": "sha256:old"}, [])],
    ids=["cut off", "kept"],
)
def test_an_image_that_loses_its_only_name_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: dict[str, str], removed: list[str]
) -> None:
    monkeypatch.setattr(_release_images, "room", lambda *_arguments: None)
    monkeypatch.setattr(_release_images, "sync", lambda _folder: None)
    monkeypatch.setattr(_release_images, "record_synced", lambda *_arguments: None)
    project: Any = Builder(tmp_path, kept)

    def build(*arguments: str) -> subprocess.CompletedProcess[str]:
        project.named["s-a:latest"] = "sha256:new"
        return subprocess.CompletedProcess(arguments, 0, "", "")

    made = Images(project, "s", False, build)
    made.find({"a": {"build": {"context": "."}}}, {"a": "digest"}, [])
    assert made.found == {"a": ("sha256:new", "digest")}
    assert project.removed == removed


def test_what_builds_left_without_a_name_goes_unless_a_release_needs_it() -> None:
    service = SimpleNamespace(image_id="sha256:kept")
    store: Any = SimpleNamespace(name="s", all=lambda: [SimpleNamespace(services={"a": service})])
    asked = []

    def api(question: str) -> list[dict[str, Any]]:
        asked.append(unquote(question))
        return [{"Id": "sha256:kept"}, {"Id": "sha256:left", "RepoTags": None}, {"Id": "sha256:n", "RepoTags": ["n:1"]}]

    project: Any = SimpleNamespace(api=api)
    assert _release_images.nameless(project, store) == ["sha256:left"]
    assert '"label": ["com.docker.compose.project=s"]' in asked[0]


ARM = {"Architecture": "arm64"}
NEW = {"Architecture": "amd64", "Config": {"Env": ["NVIDIA_REQUIRE_CUDA=cuda>=13.0 brand=tesla,driver>=470"]}}


@pytest.mark.parametrize(
    ("image", "service", "with_gpu", "cuda", "code"),
    [
        ({}, {}, True, "12.4", ""),
        ({"Architecture": "amd64"}, {}, True, "12.4", ""),
        (ARM, {}, False, "", "STACK_IMAGE_ARCHITECTURE"),
        (NEW, {}, True, "12.4", "STACK_CUDA_TOO_NEW"),
        (NEW, {}, False, "12.4", ""),
        (NEW, {}, True, "", ""),
        (NEW, {}, True, "13.1", ""),
        (NEW, {"environment": {"NVIDIA_DISABLE_REQUIRE": "1"}}, True, "12.4", ""),
        ({"Config": {"Env": ["CUDA_VERSION=12.8.1"]}}, {}, True, "12.4", ""),
        ({"Config": {"Env": ["CUDA_VERSION=13.0.0"]}}, {}, True, "12.9", "STACK_CUDA_TOO_NEW"),
    ],
)
def test_images_that_do_not_fit_the_host(
    monkeypatch: pytest.MonkeyPatch, image: Any, service: Any, with_gpu: bool, cuda: str, code: str
) -> None:
    monkeypatch.setattr(_release_images, "machine", lambda: "amd64")
    whole = {"image": "lab/x:1", **service}
    if not code:
        _release_images.refuse_unfit("web", whole, image, with_gpu, cuda)
        return
    with pytest.raises(FleetError, match="the image lab/x:1") as caught:
        _release_images.refuse_unfit("web", whole, image, with_gpu, cuda)
    assert caught.value.code == code
