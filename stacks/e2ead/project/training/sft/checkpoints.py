"""Checkpoints: step_NNNNNNNN/model.pt, each written whole or not at all, and `latest`, a link to the newest."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger("training")
KEPT = 5
FILE = "model.pt"


def save(kept: dict[str, Any], folder: Path) -> Path:
    """On disk before it has its name, and its name before `latest` leads to it."""
    place = folder / f"step_{kept['step']:08d}"
    unfinished = folder / f".{place.name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with (unfinished / FILE).open("wb") as file:
        torch.save(kept, file)
        file.flush()
        os.fsync(file.fileno())
    if place.exists():  # the same step again, by a run that went on from an older one
        shutil.rmtree(place)
    unfinished.replace(place)
    _sync(folder)
    link = folder / ".latest"
    link.unlink(missing_ok=True)
    link.symlink_to(place.name)
    link.replace(folder / "latest")
    _sync(folder)
    for old in sorted(folder.glob("step_*"))[:-KEPT]:
        shutil.rmtree(old)
    return place / FILE


def newest(folder: Path) -> dict[str, Any] | None:
    """The last checkpoint that can be read; a damaged one is said and passed over."""
    for path in sorted(folder.glob(f"step_*/{FILE}"), reverse=True):
        try:
            kept: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch, pickle and zipfile each have their own way to say it
            log.warning("checkpoint %s cannot be read (%s): using the one before it", path.parent.name, error)
        else:
            return kept
    return None


def _sync(folder: Path) -> None:
    entry = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)
