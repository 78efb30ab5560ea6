"""config.toml: its known options, reading, changing and writing it; nvidia-ctk config."""

import os
import sys
from typing import Any

from . import host, toml
from .cli import Flag, Values
from .log import Failure

# Every known option in the order of the file: table, key, value, and whether the default stands there as a comment.
KNOWN: list[tuple[str, str, Any, bool]] = [
    ("", "accept-nvidia-visible-devices-as-volume-mounts", False, True),
    ("", "accept-nvidia-visible-devices-envvar-when-unprivileged", True, True),
    ("", "disable-require", False, False),
    ("", "supported-driver-capabilities", "compat32,compute,display,graphics,ngx,utility,video", False),
    ("", "swarm-resource", "DOCKER_RESOURCE_GPU", True),
    ("nvidia-container-cli", "debug", "/var/log/nvidia-container-toolkit.log", True),
    ("nvidia-container-cli", "environment", [], False),
    ("nvidia-container-cli", "ldcache", "/etc/ld.so.cache", True),
    ("nvidia-container-cli", "ldconfig", "@/sbin/ldconfig", False),
    ("nvidia-container-cli", "load-kmods", True, False),
    ("nvidia-container-cli", "no-cgroups", False, True),
    ("nvidia-container-cli", "path", "/usr/bin/nvidia-container-cli", True),
    ("nvidia-container-cli", "root", "/run/nvidia/driver", True),
    ("nvidia-container-cli", "user", "root:video", True),
    ("nvidia-container-runtime", "debug", "/var/log/nvidia-container-runtime.log", True),
    ("nvidia-container-runtime", "log-level", "info", False),
    ("nvidia-container-runtime", "mode", "auto", False),
    ("nvidia-container-runtime", "runtimes", ["runc", "crun"], False),
    ("nvidia-container-runtime.modes.cdi", "annotation-prefixes", ["cdi.k8s.io/"], False),
    ("nvidia-container-runtime.modes.cdi", "default-kind", "nvidia.com/gpu", False),
    ("nvidia-container-runtime.modes.cdi", "spec-dirs", ["/etc/cdi", "/var/run/cdi"], False),
    (
        "nvidia-container-runtime.modes.csv",
        "mount-spec-path",
        "/etc/nvidia-container-runtime/host-files-for-container.d",
        False,
    ),
    ("nvidia-container-runtime.modes.legacy", "cuda-compat-mode", "ldconfig", False),
    ("nvidia-container-runtime-hook", "path", "nvidia-container-runtime-hook", False),
    ("nvidia-container-runtime-hook", "skip-mode-detection", False, False),
    ("nvidia-ctk", "path", "nvidia-ctk", False),
]
TYPES = {(table, key): value for table, key, value, _ in KNOWN}


def default_path() -> str:
    folder = os.environ.get("XDG_CONFIG_HOME") or "/etc"
    return f"{folder}/nvidia-container-runtime/config.toml"


def load(path: str = "") -> toml.Table:
    path = path or default_path()
    if not host.exists(path):
        return {}
    try:
        with host.at(path).open() as file:
            return toml.loads(file.read())
    except ValueError as error:
        raise Failure(f"unable to load config: failed to load config values: {error}") from None


def _inside(config: toml.Table, table: str) -> toml.Table:
    for part in table.split("."):
        config = config.get(part, {}) if part else config
    return config


def option(config: toml.Table, table: str, key: str) -> Any:
    """A set value, or the default of those that have one."""
    known = next(item for item in KNOWN if item[:2] == (table, key))
    return _inside(config, table).get(key, known[2])


def render(config: toml.Table) -> str:
    """The whole file: known options in their order, defaults as comments where they are, then unknown tables."""
    lines: list[str] = []
    current = ""
    for table, key, default, commented in KNOWN:
        if table != current:
            current = table
            lines += ["", f"[{table}]"]
        values = _inside(config, table)
        # a file that exists has its options: an absent one stays absent, but for the comments
        if key in values:
            lines.append(f"{key} = {toml.value_text(values[key])}")
        elif commented:
            lines.append(f"#{key} = {toml.value_text(default)}")
        else:
            lines.append(f"{key} = {toml.value_text(default)}")
    known = {table.split(".")[0] for table, *_ in KNOWN if table}
    for name in sorted(set(config) - known):
        if isinstance(config[name], dict):
            _append(lines, name, config[name])
    return "\n".join(lines) + "\n"


def _append(lines: list[str], name: str, table: toml.Table) -> None:
    lines += ["", f"[{name}]"]
    lines += [
        f"{key} = {toml.value_text(value)}" for key, value in sorted(table.items()) if not isinstance(value, dict)
    ]
    for key, value in sorted(table.items()):
        if isinstance(value, dict):
            _append(lines, f"{name}.{key}", value)


def assign(config: toml.Table, setting: str) -> None:
    key, equals, text = setting.partition("=")
    table, _, name = key.rpartition(".")
    if (table, name) not in TYPES:
        missing = next((part for part in key.split(".") if not any(part in (*t.split("."), k) for t, k in TYPES)), name)
        raise Failure(f'invalid --set option {setting}: invalid config option: undefined field: "{missing}"')
    kind = type(TYPES[table, name])
    value: Any = text
    if kind is bool:
        if not equals:
            text = "true"
        if text.lower() not in ("1", "t", "true", "0", "f", "false"):
            raise Failure(
                f'invalid --set option {setting}: invalid format: strconv.ParseBool: parsing "{text}": invalid syntax'
            )
        value = text.lower() in ("1", "t", "true")
    elif not equals:
        raise Failure(f"invalid --set option {setting}: invalid format: expected key=value; got {key}")
    elif kind is list:
        value = text.split(":")
    place = config
    for part in table.split("."):
        place = place.setdefault(part, {}) if part else place
    place[name] = value


def _write(text: str, path: str) -> None:
    if not path:
        sys.stdout.write(text)
        return
    target = host.at(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise Failure(f"failed to create output directory: mkdir {error.filename}: {reason}") from None
    try:
        target.write_text(text)
    except OSError as error:
        raise Failure(f"failed to create output file: open {path}: {(error.strerror or '').lower()}") from None


FLAGS = [
    Flag("config-file config c", usage="the file to change"),
    Flag("set", "list", usage="key[=value]"),
    Flag("in-place i", "bool", usage="change the file itself"),
    Flag("output o", usage="the file to write; stdout otherwise"),
]
DEFAULT_FLAGS = [Flag("output o", usage="the file to write; stdout otherwise")]


def run(values: Values) -> None:
    path = values["config-file"] or default_path()
    config = load(path)
    for setting in values["set"]:
        assign(config, setting)
    _write(render(config), path if values["in-place"] else values["output"])


def run_default(values: Values) -> None:
    _write(render({}), values["output"])
