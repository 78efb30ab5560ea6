"""The command as one file: always the same bytes, whole, and nothing of Ansible in it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _gpulab
from ansible_collections.gpulab.fleet.plugins.module_utils._host_program import PACKAGE
from ansible_collections.gpulab.fleet.plugins.plugin_utils import _command_archive as made

from tests.python310 import prefix


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("command") / "gpulab.pyz"
    path.write_bytes(made.archive())
    return path


def pythons() -> list[str]:
    old = prefix()
    return [sys.executable, *([str(old / "bin" / "python3.10")] if old else [])]


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        (f"from {PACKAGE}._a import b, c", {"_a"}),
        (f"    from {PACKAGE} import _a as part", {"_a"}),
        (f"from {PACKAGE} import _a, _b", {"_a", "_b"}),
        (f"from {PACKAGE}._a import (\n    b,\n    c,\n)", {"_a"}),
        (f"from {PACKAGE} import (\n    _a,\n    _b as c,\n    _d,\n)", {"_a", "_b", "_d"}),
        ("from ansible.module_utils.basic import AnsibleModule", set()),
        (f"text = 'from {PACKAGE}._a import b'", set()),
    ],
)
def test_imports_are_found(line: str, parts: set[str]) -> None:
    assert made.imported(f"import os\n{line}\nx = 1\n") == parts


def test_the_same_bytes_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    first = made.archive()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    assert made.archive() == first


def test_nothing_of_ansible_is_in_it() -> None:
    for name, text in made.parts(made.COMMAND, made.OF_MODULES).items():
        assert not re.search(r"^\s*(?:from|import) ansible(?:\.|\s)", text, re.MULTILINE), name


@pytest.mark.parametrize("python", pythons())
def test_every_part_can_be_imported_from_it(program: Path, python: str) -> None:
    names = [Path(name).stem for name in zipfile.ZipFile(BytesIO(made.archive())).namelist() if "/_" in name]
    code = f"import sys; sys.path.insert(0, {str(program)!r})\n" + "".join(
        f"import {PACKAGE}.{name} as m; assert m.__file__.startswith({str(program)!r}), m.__file__\n"
        for name in names
        if not name.startswith("__")
    )
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    assert len(names) > 15


@pytest.mark.parametrize("python", pythons())
def test_help_fits_a_terminal(program: Path, python: str) -> None:
    for arguments in (["--help"], *([verb, "--help"] for verb in _gpulab.VERBS)):
        environment = {**os.environ, "COLUMNS": "80"}
        done = subprocess.run(
            [python, "-I", str(program), *arguments], capture_output=True, text=True, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert max(map(len, done.stdout.splitlines())) <= 80, done.stdout
    whole = subprocess.run([python, "-I", str(program)], capture_output=True, text=True, check=False)
    assert whole.returncode == 2


def test_the_probe_finds_its_own_text_in_it(program: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(program)!r})\n"
        f"from {PACKAGE}._passthrough import probe_source; assert 'cuInit' in probe_source()"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr


def test_the_shipped_stacks_are_in_it_as_they_are(program: Path) -> None:
    with zipfile.ZipFile(program) as whole:
        names = {name.split("/")[1] for name in whole.namelist() if name.startswith("stacks/")}
        assert names == {path.parent.name for path in made.CATALOGUE.glob("*/compose.yml")}
        text = (made.CATALOGUE / "quickstart/compose.yml").read_bytes()
        assert whole.read("stacks/quickstart/compose.yml") == text


def test_only_what_is_shipped_is_in_it(tmp_path: Path) -> None:
    stack = tmp_path / "mine"
    (stack / "data").mkdir(parents=True)
    for name in ("compose.yml", ".env", "data/model", "run.sh"):
        (stack / name).write_text("x", encoding="utf-8")
    (stack / "run.sh").chmod(0o700)
    (stack / "stack.yml").write_text("description: Mine\n", encoding="utf-8")
    (tmp_path / "none").mkdir()
    found = made.catalogue(tmp_path)
    assert {name: mode for name, (_, mode) in found.items()} == {
        "stacks.json": 0o644, "stacks/mine/compose.yml": 0o644, "stacks/mine/run.sh": 0o755, "stacks/mine/stack.yml": 0o644,
    }  # fmt: skip
    assert json.loads(found["stacks.json"][0]) == {"mine": "Mine"}
