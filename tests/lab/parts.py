"""The lab's other parts, found beside this file: the package mirror, the stand-in driver."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from .settings import HERE, LabError, say


def load(name: str) -> ModuleType | None:
    """A module of a part, by its path below tests/lab; None when this checkout has no such part."""
    if not (HERE / (name.replace(".", "/") + ".py")).exists():
        return None
    return importlib.import_module(f"{__package__}.{name}")


def check_driver(gpus: int, faults: list[str]) -> None:
    """Refuse what the driver cannot be, before anything is made."""
    if not 0 <= gpus <= 8:
        raise LabError("a host has 0 to 8 GPUs")
    if faults and not gpus:
        raise LabError("a host without GPUs cannot have GPU faults")
    state = load("driver.state")
    if state is not None:
        try:
            state.new(gpus, faults)
        except state.StateError as error:
            raise LabError(str(error)) from None


def install_driver(root: Path, gpus: int, faults: list[str]) -> None:
    """No GPU means no driver at all, as on a machine that never had one."""
    if gpus == 0:
        return
    driver = load("driver.install")
    if driver is None:
        say("the stand-in driver is not in this checkout: the host gets none")
        return
    driver.install(root, gpus, faults)


def mirror_status() -> dict[str, Any] | None:
    """Where the package mirror is and which key signs it; None when this checkout has no mirror."""
    mirror = load("mirror.control")
    return mirror.status() if mirror is not None else None


def mirror_up() -> None:
    mirror = load("mirror.control")
    if mirror is None:
        say("the package mirror is not in this checkout: hosts reach only what this machine's own mirror has")
        return
    mirror.up()


def mirror_down() -> None:
    mirror = load("mirror.control")
    if mirror is not None:
        mirror.down()


def mirror_command(words: list[str]) -> int:
    mirror = load("mirror.control")
    if mirror is None:
        raise LabError("the package mirror is not in this checkout")
    return int(mirror.main(words))


def gpu_command(root: Path, words: list[str]) -> int:
    driver = load("driver.control")
    if driver is None:
        raise LabError("the stand-in driver is not in this checkout")
    return int(driver.main(root, words))
