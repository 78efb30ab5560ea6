"""Debian packages of the stand-in toolkit, under the vendor's names, versions and file paths."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
FILES = HERE / "files"
VERSIONS = ("1.18.2", "1.19.1", "1.20.0")
EPOCH = "1767225600"  # one time stamp in all of them: the same sources give the same bytes
HOME = "usr/lib/nvidia-container-toolkit"
LAUNCHER = """#!/usr/bin/python3 -IS
# A stand-in of gpulab.fleet's test hosts, not NVIDIA's program.
import sys

sys.path.insert(0, "/{home}")
from standin.{module} import run

sys.exit(run())
"""


@dataclass
class Package:
    name: str
    depends: str = ""
    description: str = ""
    files: dict[str, tuple[str, int]] = field(default_factory=dict)  # path: content, mode
    scripts: dict[str, str] = field(default_factory=dict)
    conffiles: tuple[str, ...] = ()


def _text(name: str) -> str:
    return (FILES / name).read_text()


def _base(version: str) -> Package:
    modules = {
        f"{HOME}/standin/{path.name}": (path.read_text(), 0o644) for path in sorted((HERE / "standin").glob("*.py"))
    }
    where = f"{HOME}/standin/version.py"
    modules[where] = (modules[where][0].replace('VERSION = "1.20.0"', f'VERSION = "{version}"'), 0o644)
    programs = {"nvidia-ctk": "ctk", "nvidia-cdi-hook": "cdi_hook", "nvidia-container-runtime": "runtime"}
    launchers = {
        f"usr/bin/{name}": (LAUNCHER.format(home=HOME, module=module), 0o755) for name, module in programs.items()
    }
    unit = "nvidia-cdi-refresh-1.18.service" if version.startswith("1.18.") else "nvidia-cdi-refresh.service"
    settings = "etc/nvidia-container-toolkit/nvidia-cdi-refresh.env"
    units = {
        "lib/systemd/system/nvidia-cdi-refresh.service": (_text(unit), 0o644),
        "lib/systemd/system/nvidia-cdi-refresh.path": (_text("nvidia-cdi-refresh.path"), 0o644),
        settings: (_text("nvidia-cdi-refresh.env"), 0o644),
    }
    return Package(
        "nvidia-container-toolkit-base",
        description="NVIDIA Container Toolkit Base",
        files=modules | launchers | units,
        scripts={name: _text(name) for name in ("postinst", "prerm", "postrm")},
        conffiles=(f"/{settings}",),
    )


def packages(version: str) -> list[Package]:
    full = f"{version}-1"
    return [
        _base(version),
        Package(
            "nvidia-container-toolkit",
            f"nvidia-container-toolkit-base (= {full}), libnvidia-container-tools (= {full}), "
            "libnvidia-container-tools (<< 2.0.0)",
            "NVIDIA Container toolkit",
            {"usr/bin/nvidia-container-runtime-hook": (_text("nvidia-container-runtime-hook"), 0o755)},
        ),
        Package(
            "libnvidia-container-tools",
            f"libc6, libcap2, libnvidia-container1 (>= {full})",
            "NVIDIA container runtime library (command-line tools)",
            {"usr/bin/nvidia-container-cli": (_text("nvidia-container-cli").replace("@VERSION@", version), 0o755)},
        ),
        Package(
            "libnvidia-container1",
            "libc6, libcap2",
            "NVIDIA container runtime library",
            {f"usr/lib/x86_64-linux-gnu/libnvidia-container.so.{version}": ("stand-in\n", 0o644)},
        ),
    ]


def _write(package: Package, version: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        tree = Path(scratch) / "tree"
        for name, (content, mode) in package.files.items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            path.chmod(mode)
        size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file()) // 1024 + 1
        control = tree / "DEBIAN"
        control.mkdir()
        fields = {
            "Package": package.name,
            "Version": f"{version}-1",
            "Architecture": "amd64",
            "Maintainer": "gpulab.fleet test double <nobody@example.org>",
            "Installed-Size": str(size),
            "Depends": package.depends,
            "Section": "utils",
            "Priority": "optional",
            "Description": f"{package.description}\n A stand-in for tests; it imitates the vendor's package.",
        }
        (control / "control").write_text("".join(f"{key}: {value}\n" for key, value in fields.items() if value))
        for name, text in package.scripts.items():
            (control / name).write_text(text)
            (control / name).chmod(0o755)
        if package.conffiles:
            (control / "conffiles").write_text("".join(f"{path}\n" for path in package.conffiles))
        for folder in [tree, *(path for path in tree.rglob("*") if path.is_dir())]:
            folder.chmod(0o755)
        made = Path(scratch) / target.name
        command = ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(tree), str(made)]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH}
        subprocess.run(command, check=True, capture_output=True, env=environment)
        made.rename(target)


def build(cache: Path) -> list[Path]:
    """All packages in all versions, made once for each content of the sources."""
    digest = hashlib.sha256()
    for path in sorted([Path(__file__), *FILES.iterdir(), *(HERE / "standin").glob("*.py")]):
        digest.update(path.name.encode() + path.read_bytes())
    folder = cache / "toolkit" / digest.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    made = []
    for version in VERSIONS:
        for package in packages(version):
            target = folder / f"{package.name}_{version}-1_amd64.deb"
            if not target.exists():
                _write(package, version, target)
            made.append(target)
    return made
