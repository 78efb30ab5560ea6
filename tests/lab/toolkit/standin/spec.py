"""A CDI specification: putting it together, the least version it needs, checking and writing it."""

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

from . import discover, host, plainyaml
from .discover import Edits, Options
from .log import LOG, Failure
from .nvml import Gpu, Nvml, NvmlError
from .version import at_least

Spec = dict[str, Any]
_PREFIX = "failed to generate CDI spec: failed to create device CDI specs: "
_GENERATORS = _PREFIX + "failed to construct device spec generators: "


def _names(gpu: Gpu, strategies: list[str]) -> list[str]:
    made = {"index": f"{gpu.index}", "uuid": gpu.uuid, "type-index": f"gpu{gpu.index}"}
    return [made[strategy] for strategy in strategies]


def _devices(gpus: list[Gpu], strategies: list[str], options: Options) -> list[dict[str, Any]]:
    devices = []
    for gpu in gpus:
        if gpu.migs is None:
            edits = discover.gpu_edits(gpu, options)
            devices += [{"name": name, "containerEdits": edits} for name in _names(gpu, strategies)]
        for number, mig in enumerate(gpu.migs or []):
            edits = discover.mig_edits(gpu, mig, options)
            made = {"index": f"{gpu.index}:{number}", "uuid": mig.uuid, "type-index": f"mig{gpu.index}:{number}"}
            devices += [{"name": made[strategy], "containerEdits": edits} for strategy in strategies]
    return devices


def _merged(devices: list[dict[str, Any]]) -> Edits:
    """The edits of all devices together, each node and hook once."""
    edits: Edits = {}
    for device in devices:
        for key, items in device["containerEdits"].items():
            place = edits.setdefault(key, [])
            place += [item for item in items if item not in place]
    if "deviceNodes" in edits:
        edits["deviceNodes"].sort(key=lambda found: found["path"])
    return {key: sorted(items) if key == "additionalGids" else items for key, items in edits.items()}


def _chosen(nvml: Nvml, ids: list[str]) -> list[Gpu]:
    gpus = [nvml.gpu(index) for index in range(nvml.count())] if "all" in ids or not _numbers(ids) else []
    if "all" in ids:
        return gpus
    found = []
    for wanted in ids:
        if wanted.isdigit():
            try:
                found.append(nvml.gpu(int(wanted)))
            except NvmlError as error:
                raise Failure(f"{_GENERATORS}failed to get device handle from index: {error}") from None
            continue
        index, _, number = wanted.partition(":")
        match = [gpu for gpu in gpus if wanted == gpu.uuid]
        for gpu in gpus:
            picked = [
                mig
                for n, mig in enumerate(gpu.migs or [])
                if mig.uuid == wanted or (number and index == str(gpu.index) and number == str(n))
            ]
            if picked:
                match.append(Gpu(gpu.index, gpu.uuid, gpu.minor, gpu.bus, picked))
        if not match:
            raise Failure(f'{_GENERATORS}failed to get device handle from UUID "{wanted}": Not Found')
        found += match
    return found


def _numbers(ids: list[str]) -> bool:
    return all(wanted.isdigit() for wanted in ids)


def generate(ids: list[str], strategies: list[str], all_device: bool, kind: str, options: Options) -> Spec:
    """The specification for the GPUs that NVML lists."""
    try:
        with Nvml() as nvml:
            version, cuda = nvml.driver_version(), nvml.cuda_version()
            gpus = _chosen(nvml, ids) if ids != ["none"] else []
    except NvmlError as error:
        prefix = _GENERATORS if at_least("1.18.0") else _PREFIX
        raise Failure(f"{prefix}failed to initialize NVML: {error}") from None
    if ids == ["none"]:
        devices = [{"name": "none", "containerEdits": {"env": ["NVCT_EMPTY_DEVICE="]}}]
    else:
        devices = _devices(gpus, strategies, options)
        if all_device:
            devices.append({"name": "all", "containerEdits": _merged(devices)})
    devices.sort(key=lambda device: str(device["name"]))
    return _spec(kind, devices, discover.common_edits(version, cuda, options), options)


def management(kind: str, options: Options) -> Spec:
    """One device with every node, for programs that administer the GPUs; the library is not asked."""
    paths = [
        f"/dev/{name}" for name in host.listing("/dev") if name.startswith("nvidia") and host.is_node(f"/dev/{name}")
    ]
    paths += [f"/dev/nvidia-caps/{name}" for name in host.listing("/dev/nvidia-caps")]
    if not paths:
        raise Failure(f"{_PREFIX}no NVIDIA device nodes found")
    version = (
        host.library("libnvidia-ml.so.1").partition(".so.")[2] or host.library("libcuda.so.1").partition(".so.")[2]
    )
    common = discover.common_edits(version, 0, options)
    common.pop("deviceNodes", None)
    return _spec(kind, [{"name": "all", "containerEdits": discover.device_edits(paths, [], options)}], common, options)


def empty(kind: str) -> Spec:
    """What the modes for other hardware find on a host that has none."""
    return {
        "cdiVersion": "0.3.0",
        "kind": kind,
        "devices": [{"name": "all", "containerEdits": {}}],
        "containerEdits": {},
    }


def _spec(kind: str, devices: list[dict[str, Any]], common: Edits, options: Options) -> Spec:
    spec: Spec = {"cdiVersion": "", "kind": kind, "devices": devices, "containerEdits": common}
    spec["cdiVersion"] = minimum_version(spec)
    return spec


def minimum_version(spec: Spec) -> str:
    version = "0.3.0"
    if any(str(device["name"])[0].isdigit() for device in spec["devices"]):
        version = "0.5.0"
    if "annotations" in spec or "." in spec["kind"].partition("/")[2]:
        version = "0.6.0"
    if any(
        "additionalGids" in edits for edits in [spec["containerEdits"], *(d["containerEdits"] for d in spec["devices"])]
    ):
        version = "0.7.0"
    return version


def check_kind(vendor: str, name: str) -> None:
    for what, value, pattern in (("vendor", vendor, r"[A-Za-z0-9_.-]"), ("class", name, r"[A-Za-z0-9_.-]")):
        if not value:
            raise Failure(f"invalid CDI {what} name: invalid {what}. empty name")
        bad = re.sub(pattern, "", value)
        if bad:
            raise Failure(f"invalid CDI {what} name: invalid {what}. invalid character '{bad[0]}' in name \"{value}\"")


def check(spec: Spec) -> None:
    if not spec["devices"]:
        raise Failure("failed to write spec: invalid CDI Spec: invalid spec, no devices")
    for device in spec["devices"]:
        if not device["containerEdits"]:
            raise Failure(
                f'failed to write spec: invalid CDI Spec: failed add device "{device["name"]}": invalid device, '
                "empty device edits"
            )


def text(spec: Spec, form: str) -> str:
    return json.dumps(spec, separators=(",", ":")) if form == "json" else plainyaml.dump(spec)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def write(spec: Spec, path: Path, form: str) -> None:
    """A temporary file of mode 0600 beside it, renamed, and only then opened to others, as the real program does it."""
    blocking = next((folder for folder in reversed(path.parents) if folder.exists() and not folder.is_dir()), None)
    if blocking is not None:
        raise Failure(f"failed to write spec: failed to create Spec dir: mkdir {blocking}: not a directory")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"mkdir {error.filename}: {_reason(error)}"
        raise Failure(f"failed to write spec: failed to create Spec dir: {reason}") from None
    temporary = path.with_name(f"spec.{int.from_bytes(os.urandom(4), 'big')}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text(spec, form))
        temporary.rename(path)
        path.chmod(0o644)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise Failure(f"failed to write spec: failed to create Spec file: open {temporary}: {_reason(error)}") from None
    LOG.debug(f"Wrote {path}")
