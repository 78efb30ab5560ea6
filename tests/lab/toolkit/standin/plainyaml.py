"""YAML, the part of it that CDI specs use: block maps and lists of plain scalars, read and written."""

import json
import re
from typing import Any

_PLAIN = re.compile(
    r"[A-Za-z_/.][A-Za-z0-9_/.+-]*(:{1,2}[A-Za-z0-9_/.+-]+)*(=[^\s'\"#]*)?|--?[a-z][a-z0-9-]*(=[^\s#]*)?|\d+\.\d+\.\d+"
)
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n", "~", ""}


class YamlError(Exception):
    """Text that is not the kind of YAML a spec is written in."""


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return str(value)
    if value.startswith("../") or (_PLAIN.fullmatch(value) and value.lower() not in _WORDS):
        return value
    return json.dumps(value, ensure_ascii=False)


def _lines(value: Any, indent: str) -> list[str]:
    lines = []
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, (dict, list)) and item:
                lines += [f"{indent}{key}:", *_lines(item, " " * (len(indent) // 4 * 4 + 4))]
            else:
                lines.append(f"{indent}{key}: {_scalar(item)}")
        return lines
    for item in value:
        if isinstance(item, dict):
            inner = _lines(item, indent + "  ")
            lines += [f"{indent}- {inner[0].lstrip()}", *inner[1:]]
        else:
            lines.append(f"{indent}- {_scalar(item)}")
    return lines


def dump(document: dict[str, Any]) -> str:
    return "\n".join(["---", *_lines(document, "")]) + "\n"


# --- reading ------------------------------------------------------------------------------------------------------


def _value(text: str) -> Any:
    text = text.strip()
    if text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except ValueError:
            if text.startswith("[") and text.endswith("]"):
                return [_value(part) for part in text[1:-1].split(",") if part.strip()]
            raise YamlError(f"cannot read {text!r}") from None
    if text[:1] == '"':
        try:
            return json.loads(text)
        except ValueError:
            raise YamlError(f"cannot read {text!r}") from None
    if text[:1] == "'" and text[-1:] == "'" and len(text) > 1:
        return text[1:-1].replace("''", "'")
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    return {"true": True, "false": False, "null": None, "~": None, "": None}.get(text, text)


class _Reader:
    def __init__(self, text: str) -> None:
        self.lines: list[tuple[int, str, int]] = []
        for number, line in enumerate(text.splitlines(), 1):
            bare = re.sub(r"\s+#.*$|^#.*$", "", line).rstrip()
            if "\t" in bare[: len(bare) - len(bare.lstrip())]:
                raise YamlError(f"yaml: line {number}: found character that cannot start any token")
            if bare and bare not in ("---", "..."):
                self.lines.append((len(bare) - len(bare.lstrip()), bare.lstrip(), number))

    def block(self, indent: int) -> Any:
        return self.sequence(indent) if self.lines[0][1].startswith("-") else self.mapping(indent)

    def nested(self, indent: int, same_for_list: bool) -> Any:
        """What stands below a key: deeper, or a list at the key's own depth."""
        if self.lines and (self.lines[0][0] > indent):
            return self.block(self.lines[0][0])
        if same_for_list and self.lines and self.lines[0][0] == indent and self.lines[0][1].startswith("- "):
            return self.sequence(indent)
        return None

    def mapping(self, indent: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self.lines and self.lines[0][0] == indent and not self.lines[0][1].startswith("- "):
            _, text, number = self.lines.pop(0)
            match = re.match(r"""("[^"]*"|'[^']*'|[^:]+?)\s*:(\s+(.*))?$""", text)
            if match is None:
                raise YamlError(f"yaml: line {number}: could not find expected ':'")
            rest = (match[3] or "").strip()
            found[str(_value(match[1]))] = _value(rest) if rest else self.nested(indent, True)
        self._end(indent)
        return found

    def sequence(self, indent: int) -> list[Any]:
        found: list[Any] = []
        while self.lines and self.lines[0][0] == indent and self.lines[0][1].startswith("-"):
            _, text, number = self.lines.pop(0)
            rest = text[1:].strip()
            if not rest:
                found.append(self.nested(indent, False))
            elif re.match(r"""("[^"]*"|'[^']*'|[^\s"'\[{][^:]*?)\s*:(\s|$)""", rest):
                inner = indent + len(text) - len(text[1:].lstrip())
                self.lines.insert(0, (inner, rest, number))
                found.append(self.mapping(inner))
            else:
                found.append(_value(rest))
        self._end(indent)
        return found

    def _end(self, indent: int) -> None:
        if self.lines and self.lines[0][0] > indent:
            raise YamlError(f"yaml: line {self.lines[0][2]}: did not find expected key")


def load(text: str) -> Any:
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except ValueError as error:
            raise YamlError(str(error)) from None
    reader = _Reader(text)
    if not reader.lines:
        return None
    found = reader.block(reader.lines[0][0])
    if reader.lines:
        raise YamlError(f"yaml: line {reader.lines[0][2]}: did not find expected key")
    return found
