"""Runs on a lab host as the stack's user: all that there is of the stack `small`, and of nothing else, as JSON."""

import json
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

NAME = "small"
FOLDER = Path.home() / "gpulab" / "stacks" / NAME
NOTES = Path.home() / "gpulab" / "data" / NAME / "notes"


def docker(*arguments: str) -> list[str]:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else [f"docker: {done.stderr.strip()}"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def says() -> str:
    try:
        return str(urllib.request.urlopen("http://127.0.0.1:8080/", timeout=3).read().decode())
    except OSError as error:
        return f"nothing: {error}"


def record(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(text(folder / "release.json")))
    except ValueError:
        return {}


found = {
    "containers": dict(
        row.split("\t") for row in docker("ps", "-a", "--format", "{{.Names}}\t{{.Status}}") if "\t" in row
    ),
    "networks": docker("network", "ls", "--filter", "type=custom", "--format", "{{.Name}}"),
    "images": docker("images", "--format", "{{.Repository}}:{{.Tag}}"),
    "volumes": docker("volume", "ls", "-q"),
    "current": (FOLDER / "current").readlink().name if (FOLDER / "current").is_symlink() else "",
    "releases": {path.name: record(path) for path in sorted((FOLDER / "releases").glob("*"))},
    "failed": sorted(path.parent.name for path in (FOLDER / "releases").glob("*/failed.json")),
    "hidden": sorted(str(path) for path in FOLDER.rglob(".*") if path.name != ".env"),
    "stacks": names(FOLDER.parent),
    "folder": names(FOLDER),
    "kept": {part: names(FOLDER / part) for part in ("files", "mounts", "secrets")},
    "history": text(FOLDER / "history").splitlines(),
    "starts": text(NOTES / "starts"),
    "precious": text(NOTES / "precious"),
    "processes": subprocess.run(
        ["pgrep", "-fa", "docker compose|docker-compose"], capture_output=True, text=True
    ).stdout,
    "says": says(),
    "when": time.time(),
}
print(json.dumps(found))
