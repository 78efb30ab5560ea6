"""nvidia-ctk."""

from . import configure, generate, hooks, listing, settings, system
from .cli import Command, Flag, main
from .log import Failure
from .version import VERSION


def _not_simulated(_: object) -> None:
    raise Failure("the stand-in does not do this")


GLOBAL = [
    Flag("debug d", "bool", env="NVIDIA_CTK_DEBUG", usage="more messages"),
    Flag("quiet", "bool", env="NVIDIA_CTK_QUIET", usage="errors only"),
    Flag("config", env="NVIDIA_CTK_CONFIG", usage="the configuration file"),
]
ROOT_FLAGS = [Flag("from"), Flag("input", default="-"), Flag("output"), Flag("relative-to", default="host"), Flag("to")]
PROGRAM = Command(
    "NVIDIA Container Toolkit CLI",
    "Tools to configure the NVIDIA Container Toolkit",
    GLOBAL,
    [
        Command("hook", "Hooks that may be put into an OCI spec", commands=hooks.COMMANDS),
        Command(
            "runtime",
            "Container runtimes",
            commands=[Command("configure", "Add a runtime to a container engine", configure.FLAGS, run=configure.run)],
        ),
        Command("info", "Information about the system", run=lambda _: print(f"version {VERSION}")),
        Command(
            "cdi",
            "Container Device Interface specifications",
            commands=[
                Command(
                    "generate",
                    "Generate CDI specifications for use with CDI-enabled runtimes",
                    generate.FLAGS,
                    run=generate.run,
                ),
                Command("list", "List the available CDI devices", listing.FLAGS, run=listing.run),
                Command(
                    "transform",
                    "Apply a transform to a CDI specification",
                    commands=[
                        Command("root", "Apply a root transform to a CDI specification", ROOT_FLAGS, run=_not_simulated)
                    ],
                ),
            ],
        ),
        Command(
            "system",
            "Utilities for the system",
            commands=[
                Command(
                    "create-dev-char-symlinks",
                    "Links to device nodes in /dev/char",
                    system.LINK_FLAGS,
                    run=system.create_links,
                ),
                Command(
                    "create-device-nodes",
                    "Create NVIDIA device nodes",
                    system.NODE_FLAGS,
                    run=system.create_device_nodes,
                ),
            ],
        ),
        Command(
            "config",
            "The toolkit's configuration",
            settings.FLAGS,
            [
                Command(
                    "default, create-default, generate-default",
                    "The default configuration",
                    settings.DEFAULT_FLAGS,
                    run=settings.run_default,
                )
            ],
            run=settings.run,
        ),
    ],
)


def run() -> int:
    return main(PROGRAM)
