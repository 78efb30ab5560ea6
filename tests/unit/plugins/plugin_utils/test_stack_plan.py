"""Stacks held against their own files on the controller, before anything is sent to a host."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.filter.proxy_settings import proxy_settings
from ansible_collections.gpulab.fleet.plugins.filter.stack_findings import stack_findings
from ansible_collections.gpulab.fleet.plugins.module_utils._compose_gpus import written
from ansible_collections.gpulab.fleet.plugins.module_utils._deploy_plan import Plan
from ansible_collections.gpulab.fleet.plugins.plugin_utils import _stack_plan

QUICKSTART = {"quickstart": {"user": "alice"}}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/compose.yml").write_text("services: {web: {image: a}}\n", encoding="utf-8")
    (tmp_path / "mine/stack.yml").write_text("settings: {PORT: {type: port, required: true}}\n", encoding="utf-8")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/compose.yml").write_text("services: [\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "stacks",
    [
        {},
        None,
        "text",
        QUICKSTART,
        {"quickstart": None},
        {"mine": {"source": "./mine", "settings": {"PORT": 80}, "gpus": {"web": 1}}},
        {"quickstart": {"state": "absent", "settings": {"NO": 1}}},
        # Told by the check of the settings.
        {"quickstart": "on"},
        {"quickstart": {"settings": ["PORT"]}},
        {"A B": {}},
    ],
)
def test_good_stacks_and_those_told_elsewhere(base: Path, stacks: Any) -> None:
    assert stack_findings(stacks, str(base)) == []


@pytest.mark.parametrize(
    ("entry", "code", "part"),
    [
        ({"source": "quikstart"}, "STACK_UNKNOWN", "quikstart"),
        ({"source": "./nothing"}, "STACK_UNKNOWN", "nothing"),
        ({"source": "./broken"}, "STACK_INVALID", "compose.yml"),
        ({"source": "./mine"}, "STACK_SETTING_INVALID", "PORT has no default"),
        ({"source": "./mine", "settings": {"PORT": 0}}, "STACK_SETTING_INVALID", "PORT is 0"),
        ({"source": "./mine", "settings": {"PORT": 1, "PROT": 2}}, "STACK_SETTING_INVALID", "PROT"),
        (
            {"source": "./mine", "settings": {"PORT": 1}, "gpus": {"w": 1}},
            "STACK_SETTING_INVALID",
            "gpus names the service w",
        ),
        (
            {"source": "./mine", "settings": {"PORT": 1}, "mounts": {"lib": "lib"}},
            "STACK_SETTING_INVALID",
            "gpulab_stacks.mine.mounts.lib.source is 'lib'",
        ),
        ({"source": "./mine", "settings": {"PORT": 1}, "secrets": {"KEY": "hunter2"}}, "STACK_SECRET_INVALID", "KEY"),
        (
            {"source": "./mine", "settings": {"PORT": 1}, "images": [{"name": "a", "archive": "/no/such.tar"}]},
            "STACK_ARCHIVE_INVALID",
            "/no/such.tar",
        ),
    ],
)
def test_a_mistake_names_its_stack(base: Path, entry: dict[str, Any], code: str, part: str) -> None:
    (found,) = stack_findings({"mine": entry, **QUICKSTART}, str(base))
    assert found["code"] == code
    assert found["evidence"].startswith("gpulab_stacks.mine: ")
    assert part in found["evidence"]
    assert found["data"] == {"stack": "mine"}
    assert "hunter2" not in str(found)


def test_an_authority_is_read_where_it_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("PEM\n", encoding="utf-8")
    assert proxy_settings({"http": "http://p", "ca": "ca.pem"}, str(tmp_path)) == {"http": "http://p", "ca": "PEM\n"}
    for as_it_is in ({"ca": "no/such"}, {"ca": "A\nB"}, {"ca": ""}, {"ca": 1}, {}, "text", None):
        assert proxy_settings(as_it_is, str(tmp_path)) == as_it_is


def test_gpus_that_the_file_itself_asks_for() -> None:
    services = {
        "a": {"gpus": "all"},
        "b": {"devices": ["nvidia.com/gpu=${GPU:-0}"]},
        "c": {"image": "x"},
        "d": None,
    }
    assert written({"services": services}) == {"a": "all"}


def plan(base: Path, **args: Any) -> dict[str, Any]:
    return _stack_plan.make_plan(
        "mine", _stack_plan.find("./mine", base), {"source": "./mine", "settings": {"PORT": 1}, **args}
    )


def test_a_plan_says_what_the_site_had_asked_for(base: Path) -> None:
    made = plan(
        base, gpus={"web": 1}, keep=5, publish={"web": [80]}, snapshot=None, secrets={}, mounts={"lib": "~/lib"}
    )
    assert made["given"] == {"settings": {"PORT": "1"}, "gpus": {"web": 1}, "keep": 5, "publish": {"web": [80]},
                             "mounts": {"lib": "~/lib"}}  # fmt: skip
    assert made["source"]["compose_file"] == "compose.yml" and made["source"]["archives"] == []
    assert made["publish"] == {"web": ["80"]} and made["mounts"]["lib"]["target"] == "/mounts/lib"
    Plan(**made)


def test_an_override_travels_even_when_git_ignores_it(base: Path) -> None:
    folder = base / "mine"
    (folder / ".gitignore").write_text("*.override.yml\n", encoding="utf-8")
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    before = plan(base)
    (folder / "compose.override.yml").write_text("services: {db: {image: b}}\n", encoding="utf-8")
    made = plan(base, gpus={"db": 1})
    assert (before["override"], made["override"]) == ("", "compose.override.yml")
    assert set(made["files"]) - set(before["files"]) == {"compose.override.yml"}
    assert any("compose.override.yml is merged" in note for note in made["notes"])


@pytest.mark.parametrize("text", ["- a\n", "web\n", "", "services: [web]\n", "services: {web: [image]}\n"])
def test_a_compose_file_of_another_shape(base: Path, text: str) -> None:
    (base / "mine/compose.yml").write_text(text, encoding="utf-8")
    (found,) = stack_findings({"mine": {"source": "./mine", "settings": {"PORT": 1}}}, str(base))
    assert found["code"] == "STACK_COMPOSE_INVALID" and "not a mapping" in found["evidence"]


def test_malformed_services_are_left_to_compose(base: Path) -> None:
    text = "services: {web: {image: a, devices: 5, environment: 7, deploy: x, profiles: 3}}\n"
    (base / "mine/compose.yml").write_text(text, encoding="utf-8")
    assert stack_findings({"mine": {"source": "./mine", "settings": {"PORT": 1}}}, str(base)) == []


@pytest.mark.parametrize("name", ["--help", "a b", "$(id)"])
def test_names_of_images_that_are_none(base: Path, name: str) -> None:
    images = [{"name": name, "archive": "/no/such.tar"}]
    (found,) = stack_findings({"mine": {"source": "./mine", "settings": {"PORT": 1}, "images": images}}, str(base))
    assert found["code"] == "STACK_ARCHIVE_INVALID" and repr(name) in found["evidence"]
