"""TOML, the part of it that config.toml uses: tables and one-line values."""

import json
import re
from typing import Any

Table = dict[str, Any]


def _value(text: str) -> Any:
    text = text.strip()
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    if text[:1] == "'" and text[-1:] == "'":
        return text[1:-1]
    return json.loads(text)  # strings and lists of them are written as in JSON


def loads(text: str) -> Table:
    top: Table = {}
    table = top
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("[") and line.endswith("]"):
            table = top
            for part in line[1:-1].split("."):
                table = table.setdefault(part.strip().strip('"'), {})
            continue
        key, equals, value = line.partition("=")
        try:
            if not equals:
                raise ValueError("no =")
            table[key.strip().strip('"')] = _value(value)
        except ValueError:
            raise ValueError(f"({number}, 1): cannot read {line!r}") from None
    return top


def value_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(value_text(item) for item in value) + "]"
    return json.dumps(value)
