"""Reading YAML with nothing but Compose; tests/scenarios has the same with real ones."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from ansible_collections.gpulab.fleet.plugins.module_utils import _yaml_by_compose as reader
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

STACKS = sorted((Path(__file__).parents[4] / "stacks").glob("*/stack.yml"))


def compose(argv: list[str], folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Reads what it is given as Compose does, and fails with the line as it does."""
    assert "--no-interpolate" in argv
    try:
        whole = {key: value for key, value in yaml.safe_load(text).items() if value is not None}
    except yaml.MarkedYAMLError as error:
        assert error.problem_mark
        return subprocess.CompletedProcess(argv, 15, "", f"yaml: line {error.problem_mark.line + 1}: no\n")
    return subprocess.CompletedProcess(argv, 0, json.dumps(whole), "")


def folder(path: Path, stack: str | None, text: str = "services: {a: {image: i}}\n") -> Path:
    (path / "compose.yml").write_text(text, encoding="utf-8")
    if stack is not None:
        (path / "stack.yml").write_text(stack, encoding="utf-8")
    return path / "compose.yml"


@pytest.mark.parametrize(
    "stack",
    [
        "description: x\nsettings:\n  A: {type: int}\n",
        "---\n# c\ndescription: >\n  folded\n  text\n\n  more\nsettings:\n\n  A:\n    default: |2\n        in\n...\n",
        "{description: x,\nsettings: {A: {}}}\n",
        "\ufeffdescription: x\r\nchecks:\r\n- {url: 'http://x'}\r\n",
        "- a\n- b\n",
        'description: "two\nlines"\n',
        "# only a comment\n",
        "",
        "--- # comment\na: 1\n",
    ],
)
def test_what_was_written_comes_back(tmp_path: Path, stack: str) -> None:
    config, read = reader.read(folder(tmp_path, stack), compose)
    assert config == {"services": {"a": {"image": "i"}}}
    assert read == yaml.safe_load(stack.lstrip("\ufeff"))


@pytest.mark.parametrize("path", STACKS, ids=lambda path: path.parent.name)
def test_the_shipped_stacks(path: Path) -> None:
    _, read = reader.read(path.parent / "compose.yml", compose)
    assert read == yaml.safe_load(path.read_text(encoding="utf-8"))


def test_a_folder_without_one(tmp_path: Path) -> None:
    assert reader.read(folder(tmp_path, None), compose)[1] is None


def test_whose_mistake_it_is(tmp_path: Path) -> None:
    with pytest.raises(FleetError) as error:
        reader.read(folder(tmp_path, "a: 1\nb: ]\n"), compose)
    assert error.value.code == "STACK_INVALID"
    assert "stack.yml: yaml: line 2" in error.value.detail
    with pytest.raises(FleetError) as error:
        reader.read(folder(tmp_path, "a: 1\n", "services:\n  a: ]\n"), compose)
    assert error.value.code == "STACK_COMPOSE_INVALID"
    assert "compose.yml: yaml: line 2" in error.value.detail
    for nothing in ("", "- a\n"):
        with pytest.raises(FleetError, match="not a mapping with services"):
            reader.read(folder(tmp_path, None, nothing), compose)


def test_nothing_is_filled_in(tmp_path: Path) -> None:
    text = "services:\n  a: {image: '${I:-i}', volumes: ['${LOGS:-./logs}:/logs:ro'], ports: ['${P}:1']}\n"
    config, _ = reader.read(folder(tmp_path, None, text), compose)
    assert config == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("stack", "line"), [("a: 1\n---\nb: 2\n", 2), ("--- {a: 1}\n", 1), ("---\na: 1\n...\nb: 1\n", 3)]
)
def test_one_document_only(tmp_path: Path, stack: str, line: int) -> None:
    with pytest.raises(FleetError, match=rf"line {line}"):
        reader.read(folder(tmp_path, stack), compose)


def test_where_the_compose_file_is(tmp_path: Path) -> None:
    deep = tmp_path / "scripts" / "docker"
    deep.mkdir(parents=True)
    file = folder(deep, None)
    assert reader.locate(deep) == reader.Found(deep, file)
    assert reader.locate(file) == reader.Found(deep, file, alone=True)
    (tmp_path / ".git").write_text("gitdir: elsewhere\n")
    assert reader.locate(file) == reader.Found(tmp_path, file, alone=True)
    assert reader.locate(file).inside() == {"compose_file": "scripts/docker/compose.yml", "override": ""}
    (deep / "compose.yaml").write_text("")
    assert reader.locate(deep).compose.name == "compose.yaml"
    for name in reversed(reader.OVERRIDES):  # the first of them counts, whatever the file itself is called
        (deep / name).write_text("")
        assert reader.locate(deep).override == deep / name
    assert reader.locate(deep).inside() == {"compose_file": "compose.yaml", "override": "compose.override.yml"}
    assert reader.locate(file).override is None, "a file that is named is taken alone"
    with pytest.raises(FleetError, match=r"has none of compose\.yaml"):
        reader.locate(tmp_path)


def test_an_override_is_read_with_its_file(tmp_path: Path) -> None:
    file = folder(tmp_path, "description: x\n", "services: {a: {image: i, profiles: [p], environment: {A: 1}}}\n")
    over = tmp_path / "compose.override.yml"
    over.write_text("services: {a: {image: j, profiles: [p, q], environment: [B]}, b: {image: k}}\n")
    config, stack = reader.read(file, compose, over)
    assert config["services"]["a"] == {"image": "j", "profiles": ["p", "q"], "environment": ["B"]}
    assert config["services"]["b"] == {"image": "k"} and stack == {"description": "x"}
    for wrong, said in (
        ("services:\n  a: ]\n", "compose.override.yml: yaml: line 2"),
        ("- a\n", "override.yml is not a map"),
    ):
        over.write_text(wrong)
        with pytest.raises(FleetError, match=said) as error:
            reader.read(file, compose, over)
        assert error.value.code == "STACK_COMPOSE_INVALID"


def test_what_there_is_to_say_of_a_folder(tmp_path: Path) -> None:
    found = reader.locate(folder(tmp_path, None).parent)
    assert reader.notes(found, {"A": "1"}) == []
    (tmp_path / "compose.override.yml").write_text("")
    first, second = reader.notes(reader.locate(tmp_path), {"COMPOSE_FILE": "a.yml:b.yml"})
    assert first.startswith("compose.override.yml is merged into compose.yml")
    assert "COMPOSE_FILE=a.yml:b.yml" in second and second.endswith("compose.yml with compose.override.yml")
