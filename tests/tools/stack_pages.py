#!/usr/bin/env python3
"""Write the tables of docs/stacks/NAME.md from stacks/NAME/stack.yml; with --check, say what is not current."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
OPEN, CLOSE = "<!-- settings -->", "<!-- /settings -->"


def tables(name: str, defined: dict[str, Any]) -> str:
    """What stands between the markers of a stack's page."""
    parts = [f"<!-- Made from stacks/{name}/stack.yml by `make docs`: change it there. -->"]
    settings, data, secrets = (defined.get(part) or {} for part in ("settings", "data", "secrets"))
    if settings:
        head = ("setting", "type", "default", "choices", "meaning")
        parts.append(_table(head, [_setting(each, entry or {}) for each, entry in settings.items()]))
    if data:
        rows = [(f"`{each}`", f"`{entry['folder']}/`", _cell(entry.get("description"))) for each, entry in data.items()]
        parts.append(_table(("data folder (a setting, too)", f"in `~/gpulab/data/{name}/`", "what is in it"), rows))
    if secrets:
        rows = [(f"`{each}`", _given(entry or {}), _cell((entry or {}).get("description")))
                for each, entry in secrets.items()]  # fmt: skip
        parts.append(_table(("secret", "given", "meaning"), rows))
    if defined.get("runs"):
        rows = [(f"`gpulab run {name} {each}`", _cell(text)) for each, text in defined["runs"].items()]
        parts.append(_table(("one-off run", "what it does"), rows))
    if defined.get("gpus"):
        said = ", ".join(f"`{service}` {count}" for service, count in defined["gpus"].items())
        parts.append(f"GPUs when nothing is said: {said}.")
    return "\n\n".join(parts)


def _setting(name: str, entry: dict[str, Any]) -> tuple[str, ...]:
    if "default" in entry:
        default = f"`{_plain(entry['default'])}`" if entry["default"] not in ("", None) else "empty"
    else:
        default = "must be set" if entry.get("required") else "none"
    choices = ", ".join(f"`{_plain(each)}`" if each != "" else "empty" for each in entry.get("choices") or [])
    return f"`{name}`", str(entry.get("type", "str")), default, choices, _cell(entry.get("description"))


def _given(entry: dict[str, Any]) -> str:
    if entry.get("generate"):
        return "made on the host when not given"
    return "must be" if entry.get("required") else "may be"


def _plain(value: Any) -> str:
    """A value as one writes it in YAML, for a cell of a table."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text.replace("|", "\\|")


def _cell(text: Any) -> str:
    return " ".join(str(text or "").split()).replace("|", "\\|")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("|" + "".join(f" {cell} |" if cell else " |" for cell in line) for line in lines)


def filled(page: str, text: str) -> str:
    """A page with this text between its markers."""
    if page.count(OPEN) != 1 or page.count(CLOSE) != 1 or page.index(OPEN) > page.index(CLOSE):
        raise ValueError(f"has not one {OPEN} and one {CLOSE} after it")
    before, rest = page.split(OPEN)
    return f"{before}{OPEN}\n{text}\n{CLOSE}{rest.split(CLOSE)[1]}"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a page is not current")
    parser.add_argument("--root", type=Path, default=ROOT, help="the tree that has stacks/ and docs/stacks/")
    options = parser.parse_args(argv)
    pages = options.root / "docs" / "stacks"
    described = {file.parent.name: file for file in sorted((options.root / "stacks").glob("*/stack.yml"))}
    wrong = [f"docs/stacks/{page.name}: there is no such stack"
             for page in sorted(pages.glob("*.md")) if page.stem not in described]  # fmt: skip
    for name, file in described.items():
        page = pages / f"{name}.md"
        if not page.exists():
            wrong.append(f"stacks/{name} has no page: write docs/stacks/{name}.md with {OPEN} and {CLOSE} in it")
            continue
        before = page.read_text(encoding="utf-8")
        try:
            after = filled(before, tables(name, yaml.safe_load(file.read_text(encoding="utf-8"))))
        except ValueError as error:
            wrong.append(f"docs/stacks/{name}.md {error}")
            continue
        if options.check and after != before:
            wrong.append(f"docs/stacks/{name}.md is not current: run `make docs`")
        elif after != before:
            page.write_text(after, encoding="utf-8")
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
