"""Each shipped stack has a page, and the tables in it say what its stack.yml says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tests" / "tools" / "stack_pages.py"
STACK = """\
settings:
  PORT: {type: port, default: 8000, description: Where it listens}
  MODEL: {required: true, choices: [small, large], description: a|b}
  QUIET: {type: bool, default: false}
data:
  WEIGHTS: {folder: weights, description: Weights}
secrets:
  TOKEN: {description: A token}
  PASSWORD: {generate: 32}
runs: {train: Trains once}
gpus: {server: 1}
"""


def run(*args: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, str(TOOL), *args], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "stacks" / "mine").mkdir(parents=True)
    (tmp_path / "docs" / "stacks").mkdir(parents=True)
    (tmp_path / "stacks" / "mine" / "stack.yml").write_text(STACK, encoding="utf-8")
    page = "# mine\n\n<!-- settings -->\n<!-- /settings -->\n\nThe rest.\n"
    (tmp_path / "docs" / "stacks" / "mine.md").write_text(page, encoding="utf-8")
    return tmp_path


def test_the_shipped_pages_are_current() -> None:
    assert run("--check") == (0, "")


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "stacks").glob("*.md")), ids=lambda page: page.stem)
def test_a_page_is_short_and_its_links_and_pictures_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert link.startswith("https://") or (page.parent / link).exists(), link
    for picture in page.parent.glob(f"{page.stem}-*.png"):
        assert picture.stat().st_size <= 200 * 1024, picture.name
        assert picture.name in text, f"{picture.name} is shown nowhere"


def test_no_folder_of_a_stack_has_a_readme() -> None:
    """Its page is in docs/stacks/, and what is in the folder is shipped to hosts."""
    assert list((ROOT / "stacks").glob("*/README*")) == []


def test_a_page_is_filled_and_stays_so(tree: Path) -> None:
    page = tree / "docs" / "stacks" / "mine.md"
    assert run("--check", "--root", str(tree)) == (1, "docs/stacks/mine.md is not current: run `make docs`\n")
    assert run("--root", str(tree)) == (0, "")
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# mine\n") and text.endswith("\nThe rest.\n")
    for line in (
        "| `PORT` | port | `8000` | | Where it listens |",
        "| `MODEL` | str | must be set | `small`, `large` | a\\|b |",
        "| `QUIET` | bool | `false` | | |",
        "| `WEIGHTS` | `weights/` | Weights |",
        "| `TOKEN` | may be | A token |",
        "| `PASSWORD` | made on the host when not given | |",
        "| `gpulab run mine train` | Trains once |",
        "GPUs when nothing is said: `server` 1.",
    ):
        assert line in text.splitlines(), text
    assert run("--check", "--root", str(tree)) == (0, "")
    page.write_text(text.replace("`8000`", "`8001`"), encoding="utf-8")
    assert run("--check", "--root", str(tree))[0] == 1


def test_what_is_missing_is_named(tree: Path) -> None:
    page = tree / "docs" / "stacks" / "mine.md"
    page.write_text("# mine\n", encoding="utf-8")
    assert "docs/stacks/mine.md has not one <!-- settings -->" in run("--root", str(tree))[1]
    page.rename(page.with_name("other.md"))
    code, said = run("--check", "--root", str(tree))
    assert code == 1
    assert "stacks/mine has no page" in said and "docs/stacks/other.md: there is no such stack" in said
