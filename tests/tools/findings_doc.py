#!/usr/bin/env python3
"""Make docs/findings.md from the catalogue of findings; with --check, say whether it is current."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "findings.md"
CATALOGUE = ROOT / "plugins" / "module_utils" / "_catalogue.py"

LAYERS = {
    "inventory": "The inventory",
    "host": "The host",
    "packages": "Packages",
    "engine": "Engines",
    "users": "Users",
    "driver": "The NVIDIA driver",
    "toolkit": "The container toolkit and CDI",
    "proof": "The proof",
    "stacks": "Stacks",
}
HEAD = """\
<!-- Made from plugins/module_utils/_catalogue.py by tests/tools/findings_doc.py: change it there. -->
# What this collection can find wrong

{count} conditions, each with a stable name. `ansible-playbook -i inventory gpulab.fleet.doctor` looks for them, the preflight
of `site.yml` stops at those that would stop an installation, and the proof names them when a GPU does not work. A finding
says what was seen on the host besides what stands here. What could not be looked at is reported as unknown, never as
healthy.

An *error* stops an installation or a GPU, a *warning* will hurt later, a *note* is worth knowing. `{{names}}` stand for
values of the host.

Look for the name, or by what is wrong: {layers}.
"""


def render(catalogue: dict[str, dict[str, Any]]) -> str:
    """The page."""
    there = [title for layer, title in LAYERS.items() if any(entry["layer"] == layer for entry in catalogue.values())]
    links = ", ".join(f"[{title}](#{title.lower().replace(' ', '-')})" for title in there)
    parts = [HEAD.format(count=len(catalogue), layers=links)]
    for layer, title in LAYERS.items():
        entries = {code: entry for code, entry in catalogue.items() if entry["layer"] == layer}
        if entries:
            parts.append(f"## {title}\n")
            parts += [_entry(code, entry) for code, entry in entries.items()]
    return "\n".join(parts)


def _entry(code: str, entry: dict[str, Any]) -> str:
    severity = "note" if entry["severity"] == "info" else entry["severity"]
    return (
        f"### {code}\n\n{_plain(entry['title'])} (*{severity}*).\n\n"
        f"- Cause: {_plain(entry['cause'])}\n- Remedy: {_plain(entry['remedy'])}\n"
    )


def _plain(text: str) -> str:
    """As a finding shows it, with what Markdown would take for markup made harmless."""
    text = text.replace("{{", "{").replace("}}", "}")
    for character in ("<", "*"):
        text = text.replace(character, f"\\{character}")
    return text


def main() -> int:
    page = render(runpy.run_path(str(CATALOGUE))["catalogue"]())
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page:
        return 0
    print("docs/findings.md is not current: run tests/tools/findings_doc.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
