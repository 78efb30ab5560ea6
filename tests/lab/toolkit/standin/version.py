"""Which release this copy stands in for; the package build writes the line anew."""

VERSION = "1.20.0"

COMMITS = {"1.20.0": "5505e2f94d9aaa08561490db974ba3cd676af209"}


def at_least(wanted: str) -> bool:
    return [int(part) for part in VERSION.split(".")] >= [int(part) for part in wanted.split(".")]


def text() -> str:
    return f"{VERSION}\ncommit: {COMMITS.get(VERSION, 'unknown')}"
