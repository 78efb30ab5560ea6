"""nvidia-cdi-hook: the hooks as a program of their own."""

from . import hooks
from .cli import Command, Flag, main

PROGRAM = Command(
    "NVIDIA CDI Hook",
    "Structure files for usage inside a container, called as hooks from a runtime",
    [
        Flag("debug d", "bool", env="NVIDIA_CTK_DEBUG NVIDIA_CDI_DEBUG", usage="more messages"),
        Flag("quiet", "bool", env="NVIDIA_CTK_QUIET NVIDIA_CDI_QUIET", usage="errors only"),
    ],
    hooks.COMMANDS,
)


def run() -> int:
    return main(PROGRAM)
