"""The collection's code on a host: whole or not, this Python's or another's, and translated once."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _host_program
from ansible_collections.gpulab.fleet.plugins.module_utils._compiled_archive import compiled
from ansible_collections.gpulab.fleet.plugins.module_utils._host_program import PACKAGE, stands_for
from ansible_collections.gpulab.fleet.plugins.plugin_utils import _command_archive


def sent(**files: str) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name, text in files.items():
            made.writestr(name, text)
    return buffer.getvalue()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "gpulab.pyz"
    path.write_bytes(compiled(_command_archive.archive()))
    return path


def test_it_stands_for_what_was_sent(program: Path) -> None:
    assert stands_for(program) == sha256(_command_archive.archive()).hexdigest()


@pytest.mark.parametrize("damage", ["missing", "cut", "changed", "empty", "as it was sent"])
def test_what_is_not_whole_stands_for_nothing(program: Path, damage: str) -> None:
    data = program.read_bytes()
    middle = len(data) // 2
    others = {
        "cut": data[:middle],
        "changed": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "empty": b"",
        "as it was sent": _command_archive.archive(),
    }
    program.unlink()
    if damage in others:
        program.write_bytes(others[damage])
    assert stands_for(program) == ""


def test_what_was_translated_for_another_python_stands_for_nothing(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_host_program, "MAGIC_NUMBER", b"\x01\x02\r\n")
    assert stands_for(program) == ""


def run(program: Path, code: str) -> str:
    lines = f"import sys; sys.path.insert(0, {str(program)!r}); {code}"
    done = subprocess.run([sys.executable, "-I", "-c", lines], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_bytecode_is_what_python_takes(tmp_path: Path) -> None:
    """Seen by a source beside it that says something else."""
    path = tmp_path / "two.pyz"
    whole = compiled(sent(**{"part.py": "WORD = 'one'\n"}))
    path.write_bytes(whole)
    assert run(path, "import part; print(part.WORD)") == "one"
    with zipfile.ZipFile(BytesIO(whole)) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, "WORD = 'two'\n" if name == "part.py" else old.read(name))
    assert run(path, "import part; print(part.WORD)") == "one"


def test_the_shipped_stacks_programs_stay_as_they_are(program: Path) -> None:
    names = zipfile.ZipFile(program).namelist()
    assert [name for name in names if name.startswith("stacks/") and name.endswith(".pyc")] == []
    assert f"{PACKAGE.replace('.', '/')}/_transaction.pyc" in names and "__main__.pyc" in names


def test_a_module_takes_its_parts_from_it(program: Path, tmp_path: Path) -> None:
    """As in a module that Ansible runs: the package is that of the module's own payload, which has one part."""
    payload = tmp_path / "payload.zip"
    packages = PACKAGE.split(".")
    files = {"/".join([*packages[: depth + 1], "__init__.py"]): "" for depth in range(len(packages))}
    files[f"{'/'.join(packages)}/_host_program.py"] = Path(_host_program.__file__).read_text(encoding="utf-8")
    payload.write_bytes(sent(**files))
    code = f"from {PACKAGE}._host_program import part; m = part({str(program)!r}, '_release_verbs'); print(m.__file__, m.answer)"
    assert run(payload, code).startswith(f"{program}/")


def test_what_works_as_the_user_is_loaded_before() -> None:
    """A program that was sent for one task lies in root's temporary folder."""
    late = re.compile(rf"^ +(?:from {re.escape(PACKAGE)}[. ]|import {re.escape(PACKAGE)})", re.MULTILINE)
    found = _command_archive.parts(_command_archive.OF_MODULES)
    assert "_transaction" in found
    assert [name for name, text in found.items() if late.search(text)] == []
