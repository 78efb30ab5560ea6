"""nvidia-ctk runtime configure, for docker. As in every release so far, --cdi.enabled replaces all of "features"."""

import json
from pathlib import PurePosixPath

from . import host
from .cli import Flag, Values
from .log import LOG, Failure

FLAGS = [
    Flag("dry-run", "bool", usage="print the configuration instead of writing it"),
    Flag("runtime", default="docker", usage="one of containerd, crio, docker"),
    Flag("config", usage="the engine's configuration file"),
    Flag("drop-in-config", usage="a file of its own for the runtime (containerd, crio)"),
    Flag("executable-path", usage="the engine's program"),
    Flag("config-mode", usage="for engines with several mechanisms"),
    Flag("config-source", default="file", usage="command or file"),
    Flag("oci-hook-path", usage="where to write an OCI hook"),
    Flag("nvidia-runtime-name", default="nvidia", usage="the runtime's name"),
    Flag("nvidia-runtime-path runtime-path", default="nvidia-container-runtime", usage="the runtime's program"),
    Flag("nvidia-runtime-hook-path", default="/usr/bin/nvidia-container-runtime-hook", usage="the hook's program"),
    Flag("nvidia-set-as-default set-as-default", "bool", usage="make it the default runtime"),
    Flag("cdi.enabled cdi.enable enable-cdi", "bool", usage="switch CDI on"),
]


def _decode(text: str) -> dict[str, object]:
    if not text.strip():
        raise Failure("unable to load config for runtime docker: EOF")
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        where = "object key string" if "property name" in error.msg else "value"
        shown = text[error.pos] if error.pos < len(text) else ""
        reason = f"invalid character '{shown}' looking for beginning of {where}" if shown else "unexpected EOF"
        raise Failure(f"unable to load config for runtime docker: {reason}") from None
    if not isinstance(found, dict):
        raise Failure("unable to load config for runtime docker: json: cannot unmarshal into a map")
    return found


def _encode(config: dict[str, object]) -> str:
    text = json.dumps(config, indent=4, sort_keys=True, ensure_ascii=False)
    for character, escape in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(character, escape)
    return text


def run(values: Values) -> None:
    runtime = values["runtime"]
    if runtime not in ("containerd", "crio", "docker"):
        raise Failure(f"unrecognized runtime '{runtime}'")
    if runtime != "docker":
        raise Failure(f"the stand-in does not configure {runtime}")
    path = values["config"] or "/etc/docker/daemon.json"
    config: dict[str, object] = {}
    if host.exists(path):
        LOG.info(f"Loading config from {path}")
        config = _decode(host.at(path).read_text())
    else:
        LOG.info("Config file does not exist; using empty config")
    runtimes = config.get("runtimes")
    runtimes = dict(runtimes) if isinstance(runtimes, dict) else {}
    runtimes[values["nvidia-runtime-name"]] = {"path": values["nvidia-runtime-path"], "args": []}
    config["runtimes"] = runtimes
    if values["nvidia-set-as-default"]:
        config["default-runtime"] = values["nvidia-runtime-name"]
    if values["cdi.enabled"]:
        config["features"] = {"cdi": True}
    text = _encode(config)
    if values["dry-run"]:
        print(text + "\n")
        return
    _flush(text, path)
    LOG.info(f"Wrote updated config to {path}")
    LOG.info("It is recommended that docker daemon be restarted.")


def _flush(text: str, path: str) -> None:
    target = host.at(path)
    try:
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        folder = PurePosixPath(path).parent
        reason = (error.strerror or "").lower()
        raise Failure(
            f"unable to flush config: unable to create directory {folder}: mkdir {folder}: {reason}"
        ) from None
    try:
        target.write_text(text)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise Failure(f"unable to flush config: unable to open {path} for writing: {reason}") from None
