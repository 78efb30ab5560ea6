"""What is shipped, and how settings are written."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _stack_files as layout


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain-1.0/x:y@z,=", "plain-1.0/x:y@z,="),
        ("", ""),
        ("two words", "'two words'"),
        ("$HOME and #", "'$HOME and #'"),
        ("it's $5", '"it\'s \\$5"'),
        ('say "it\'s"', '"say \\"it\'s\\""'),
        ("a\nb", '"a\\nb"'),
        ("back\\slash's", '"back\\\\slash\'s"'),
    ],
)
def test_dotenv_says_exactly_that(text: str, written: str) -> None:
    assert layout.dotenv({"A": text}) == f"A={written}\n"


def test_shipped_leaves_out_what_a_person_left(tmp_path: Path) -> None:
    for name in ("compose.yml", ".env", ".env.example", "secrets/T", "data/x", "app/run.sh", "app/__pycache__/a.pyc"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(name, encoding="utf-8")
    (tmp_path / "app" / "run.sh").chmod(0o755)
    found = layout.shipped(tmp_path)
    assert list(found) == [".env.example", "app/run.sh", "compose.yml"]
    assert [found[name]["mode"] for name in found] == [0o644, 0o755, 0o644]
    assert found["compose.yml"]["sha256"] == layout.checksum(tmp_path / "compose.yml")


def test_the_state_of_a_folder_changes_with_its_files_and_not_with_gits(tmp_path: Path) -> None:
    (tmp_path / "sub" / ".git").mkdir(parents=True)
    (tmp_path / "sub" / "a.py").write_text("1", encoding="utf-8")
    states = [layout.folder_state(str(tmp_path))]
    (tmp_path / "sub" / ".git" / "index").write_text("x", encoding="utf-8")
    assert layout.folder_state(str(tmp_path)) == states[0]
    for name, text in (("sub/a.py", "22"), ("b.py", "")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        states.append(layout.folder_state(str(tmp_path)))
    (tmp_path / "b.py").chmod(0o755)
    states.append(layout.folder_state(str(tmp_path)))
    assert len(set(states)) == 4
    assert layout.folder_state(str(tmp_path / "not-there")) == layout.folder_state(str(tmp_path / "neither"))
