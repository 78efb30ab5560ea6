"""The table: what the real programs were seen to do, one row each, and the stand-in must do the same."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from .conftest import Box, Make

INIT = (
    "failed to generate CDI spec: failed to create device CDI specs: failed to construct device spec generators: "
    "failed to initialize NVML: "
)
INVALID = "failed to write spec: invalid CDI Spec: "
ONE, TWO = (f"GPU-12345678-1234-1234-1234-12345678000{n}" for n in (0, 1))
NAMES = "".join(f"nvidia.com/gpu={name}\n" for name in ("0", "1", ONE, TWO, "all"))
Prepare = Callable[[Box], object]


@dataclass
class Row:
    what: str
    arguments: str | tuple[str, ...]
    code: int = 0
    stdout: str | None = ""  # None: not compared here
    errors: tuple[str, ...] = ()  # log lines that must be there, "level: message"; "..." stands for any text
    last: str = ""  # the last log line
    faults: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    gpus: int = 2
    release: str = "1.20.0"
    prepare: tuple[Prepare, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()  # files that must not be there afterwards


def put(path: str, text: str = "", mode: int = 0o644) -> Prepare:
    def prepare(box: Box) -> None:
        target = box.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    return prepare


def remove(pattern: str) -> Prepare:
    def prepare(box: Box) -> None:
        for path in box.root.glob(pattern):
            path.unlink()

    return prepare


def older_libraries(box: Box) -> None:
    """The files of one version, of which NVML tells another."""
    folder = box.root / "usr/lib/x86_64-linux-gnu"
    for path in folder.glob("*.so.550.163.01"):
        path.rename(path.with_name(path.name.replace("550.163.01", "550.90.07")))
    for name in ("libnvidia-ml.so.1", "libcuda.so.1"):
        (folder / name).unlink()
        (folder / name).symlink_to(f"{name[:-2]}.550.90.07")


def spec(path: str, *names: str) -> Prepare:
    devices = "".join(f'  - name: "{name}"\n    containerEdits: {{"env": ["A=b"]}}\n' for name in names)
    return put(path, f"cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n{devices}")


GENERATE = "cdi generate --output=out/nvidia.yaml"
DONE = "info: Generated CDI spec with version 0.5.0"
LIST = "cdi list --spec-dir=/etc/cdi,/var/run/cdi"

ROWS = [
    # --- versions and wrong command lines
    Row("version", "--version", stdout="NVIDIA Container Toolkit CLI version 1.20.0\n"
        "commit: 5505e2f94d9aaa08561490db974ba3cd676af209\n"),
    Row("unknown command", "bogus", 3, last="No help topic for 'bogus'"),
    Row("unknown flag", "cdi generate --bogus-flag", 1, None, last="error: flag provided but not defined: -bogus-flag"),
    # --- cdi generate: refused flags
    Row("format", "cdi generate --format=xml", 1, last="error: invalid output format: xml"),
    Row("mode", "cdi generate --mode=bogus", 1, last="error: invalid discovery mode: bogus"),
    Row("strategy", "cdi generate --device-name-strategy=bogus", 1, last="error: invalid device name strategy: bogus"),
    Row("vendor", ("cdi", "generate", "--vendor=bad vendor"), 1,
        last="error: invalid CDI vendor name: invalid vendor. invalid character ' ' in name \"bad vendor\""),
    # --- cdi generate: what it says
    Row("quiet about success", f"--quiet {GENERATE}"),
    Row("last line", GENERATE, last=DONE),
    Row("last line of 1.18.2 tells its library's version", GENERATE, release="1.18.2",
        last="info: Generated CDI spec with version 1.1.0"),
    Row("last line of 1.19.1", GENERATE, release="1.19.1", last=DONE),
    Row("output by environment", "cdi generate", last=DONE, environment={"NVIDIA_CTK_CDI_OUTPUT_FILE_PATH": "out/x.yaml"}),
    Row("extension against format", "cdi generate --output=x.json --format=yaml", last=DONE,
        errors=('warning: Requested output format "yaml" does not match format implied by output file name: "json"',)),
    Row("uuid names need less", f"{GENERATE} --device-name-strategy=uuid", last=DONE.replace("0.5.0", "0.3.0")),
    Row("type-index names need less", f"{GENERATE} --device-name-strategy=type-index", last=DONE.replace("0.5.0", "0.3.0")),
    Row("no device", f"{GENERATE} --device-id=none", last=DONE.replace("0.5.0", "0.3.0")),
    Row("dotted class", f"{GENERATE} --class=a.b", last=DONE.replace("0.5.0", "0.6.0")),
    Row("hook program not found", GENERATE, last=DONE, prepare=(remove("usr/bin/nvidia-cdi-hook"),),
        errors=("warning: Failed to locate nvidia-cdi-hook: nvidia-cdi-hook: not found",)),
    # --- cdi generate: what it refuses
    Row("unknown index", f"{GENERATE} --device-id=7", 1, last="error: failed to generate CDI spec: failed to create device "
        "CDI specs: failed to construct device spec generators: failed to get device handle from index: Invalid Argument"),
    Row("no library", GENERATE, 1, gpus=0, last=f"error: {INIT}ERROR_LIBRARY_NOT_FOUND", absent=("out",)),
    Row("not loaded", GENERATE, 1, faults=("not-loaded",), last=f"error: {INIT}Driver Not Loaded", absent=("out",)),
    Row("library mismatch", GENERATE, 1, faults=("library-mismatch",),
        last=f"error: {INIT}Driver/library version mismatch", absent=("out",)),
    Row("no permission", GENERATE, 1, faults=("no-permission",), last=f"error: {INIT}Insufficient Permissions"),
    Row("unknown error", GENERATE, 1, faults=("unknown",), last=f"error: {INIT}Unknown Error"),
    Row("no GPU", GENERATE, 1, faults=("no-devices",), absent=("out",),
        last=f'error: {INVALID}failed add device "all": invalid device, empty device edits'),
    Row("no GPU and no all", f"{GENERATE} --no-all-device", 1, faults=("no-devices",),
        last=f"error: {INVALID}invalid spec, no devices"),
    Row("no node at all", GENERATE, 1, prepare=(remove("dev/nvidia*"),), absent=("out",), errors=(DONE,),
        last=f'error: {INVALID}failed add device "0": invalid device, empty device edits'),
    Row("a file for a node", GENERATE, 1, prepare=(remove("dev/nvidia0"), put("dev/nvidia0")),
        last=f'error: {INVALID}failed add device "0": invalid device, empty device edits'),
    Row("no uvm node is only a warning", GENERATE, faults=("uvm-missing",), last=DONE,
        errors=("warning: Could not locate /dev/nvidia-uvm: /dev/nvidia-uvm: not found",
                "warning: Could not locate /dev/nvidia-uvm-tools: /dev/nvidia-uvm-tools: not found")),
    Row("no libcuda is no error", GENERATE, faults=("no-cuda-library",), last=DONE),
    Row("libraries of another version", GENERATE, 1, prepare=(older_libraries,), absent=("out",),
        last="error: failed to generate CDI spec: failed to create edits common for entities: failed to create "
        "discoverer for common entities: failed to create discoverer for driver files: ... failed to locate ..."),
    *(Row(f"mode {mode}", f"{GENERATE} --mode={mode}", 1, absent=("out",),
          last=f'error: {INVALID}failed add device "all": invalid device, empty device edits')
      for mode in ("gdrcopy", "gds", "imex", "mofed", "nvswitch", "csv")),
    Row("management without nodes", f"{GENERATE} --mode=management", 1, prepare=(remove("dev/nvidia*"),),
        last="error: failed to generate CDI spec: failed to create device CDI specs: no NVIDIA device nodes found"),
    Row("management with an unloaded driver", f"{GENERATE} --mode=management", faults=("unknown",),
        last=DONE.replace("0.5.0", "0.3.0")),
    *(Row(f"parent is a file, {path}", f"cdi generate --output={path}", 1, prepare=(put("afile"),),
          last="error: failed to write spec: failed to create Spec dir: mkdir .../afile: not a directory")
      for path in ("afile/spec.yaml", "afile/x/spec.yaml")),
    # --- cdi list
    Row("list", LIST, stdout=NAMES, last="info: Found 5 CDI devices",
        prepare=(lambda box: box.ctk("cdi", "generate", f"--output={box.root}/etc/cdi/nvidia.yaml"),)),
    Row("list of nothing", LIST, last="info: Found 0 CDI devices"),
    Row("list of a folder that is not there", "cdi list --spec-dir=/nowhere", last="info: Found 0 CDI devices"),
    Row("list by environment", "cdi list", stdout="nvidia.com/gpu=5\n", last="info: Found 1 CDI devices",
        environment={"NVIDIA_CTK_CDI_SPEC_DIRS": "/elsewhere"}, prepare=(spec("elsewhere/a.yaml", "5"),)),
    Row("list with a broken file", LIST, stdout="nvidia.com/gpu=0\n", last="info: Found 1 CDI devices",
        prepare=(spec("etc/cdi/good.yaml", "0"), put("etc/cdi/bad.yaml", "kind: [\n\tx")),
        errors=("warning: The following registry errors were reported:",
                'warning: /etc/cdi/bad.yaml: [failed to load CDI Spec failed to parse CDI Spec "/etc/cdi/bad.yaml": ...]')),
    Row("list with a conflict in a folder", LIST, last="info: Found 0 CDI devices",
        prepare=(spec("etc/cdi/a.yaml", "0"), spec("etc/cdi/b.yaml", "0")),
        errors=('warning: ...conflicting device "nvidia.com/gpu=0" (specs "/etc/cdi/b.yaml", "/etc/cdi/a.yaml")...',)),
    Row("list of the same name in two folders", LIST, stdout="nvidia.com/gpu=0\n", last="info: Found 1 CDI devices",
        prepare=(spec("etc/cdi/a.yaml", "0"), spec("var/run/cdi/b.yaml", "0"))),
    Row("list is quiet about the count", f"--quiet {LIST}", stdout="nvidia.com/gpu=0\n",
        prepare=(spec("etc/cdi/a.yaml", "0"),)),
    # --- config
    Row("config is silent", "config --set nvidia-container-cli.no-cgroups --in-place"),
    Row("config with an unknown key", "config --set bogus.key=1", 1,
        last='error: invalid --set option bogus.key=1: invalid config option: undefined field: "bogus"'),
    Row("config with a value that is no boolean", "config --set nvidia-container-cli.no-cgroups=maybe", 1,
        last="error: invalid --set option nvidia-container-cli.no-cgroups=maybe: invalid format: strconv.ParseBool: "
        'parsing "maybe": invalid syntax'),
    # --- runtime configure
    Row("configure an unknown engine", "runtime configure --runtime=podman", 1, last="error: unrecognized runtime 'podman'"),
    Row("configure a new file", "runtime configure", last="info: It is recommended that docker daemon be restarted.",
        errors=("info: Config file does not exist; using empty config", "info: Wrote updated config to /etc/docker/daemon.json")),
    Row("configure an existing file", "runtime configure", last="info: It is recommended that docker daemon be restarted.",
        prepare=(put("etc/docker/daemon.json", "{}"),), errors=("info: Loading config from /etc/docker/daemon.json",)),
    Row("configure a broken file", "runtime configure", 1, prepare=(put("etc/docker/daemon.json", "{bad"),),
        last="error: unable to load config for runtime docker: invalid character 'b' looking for beginning of "
        "object key string"),
    Row("configure an empty file", "runtime configure", 1, prepare=(put("etc/docker/daemon.json"),),
        last="error: unable to load config for runtime docker: EOF"),
    # --- system create-device-nodes
    Row("nodes without flags", "system create-device-nodes", last='info: Using dev-root "/"'),
    Row("nodes without a driver", "system create-device-nodes --control-devices", 1, gpus=0,
        last="error: failed to create devices info: no NVIDIA devices found"),
    Row("nodes without a driver, dry", "system create-device-nodes --control-devices --dry-run", 1, gpus=0,
        last="error: failed to create devices info: no NVIDIA devices found"),
    Row("nodes that are there", "system create-device-nodes --control-devices",
        errors=('info: Using dev-root "/"', "info: Creating control device nodes at /",
                "info: Skipping: /dev/nvidiactl already exists"), last="info: Skipping: /dev/nvidia-uvm-tools already exists"),
    Row("nodes, dry", "system create-device-nodes --control-devices --dry-run",
        errors=("info: Running: mknod --mode=0666 /dev/nvidiactl c 195 255",
                "info: Running: mknod --mode=0666 /dev/nvidia-modeset c 195 254",
                "info: Running: mknod --mode=0666 /dev/nvidia-uvm c 511 0"),
        last="info: Running: mknod --mode=0666 /dev/nvidia-uvm-tools c 511 1"),
]  # fmt: skip


def logged(stderr: str) -> list[str]:
    """The log lines as "level: message"; a line in another form stays as it is."""
    lines = []
    for line in stderr.splitlines():
        found = re.fullmatch(r'time="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ" level=(\w+) msg=(?:"(.*)"|(\S+))', line)
        message = "" if not found else (found[2] or found[3] or "").replace('\\"', '"')
        lines.append(f"{found[1]}: {message}" if found else line)
    return lines


def matches(wanted: str, line: str) -> bool:
    return re.fullmatch(".*".join(re.escape(part) for part in wanted.split("...")), line) is not None


@pytest.mark.parametrize("row", ROWS, ids=[row.what for row in ROWS])
def test_row(make: Make, row: Row) -> None:
    box = make(*row.faults, gpus=row.gpus, settings=row.settings, release=row.release)
    for prepare in row.prepare:
        prepare(box)
    arguments = row.arguments.split() if isinstance(row.arguments, str) else row.arguments
    done = box.ctk(*arguments, **row.environment)
    lines = logged(done.stderr)
    assert done.returncode == row.code, done.stderr
    if row.stdout is not None:
        assert done.stdout == row.stdout
    for wanted in row.errors:
        assert any(matches(wanted, line) for line in lines), (wanted, lines)
    assert matches(row.last, lines[-1]) if row.last else not lines, (row.last, lines[-3:])
    for path in row.absent:
        assert not (box.root / path).exists()
    assert not list(Path(box.root).rglob("*.tmp"))
