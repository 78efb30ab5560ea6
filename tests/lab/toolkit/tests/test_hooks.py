"""The hooks, on a bundle as a runtime hands it over."""

import json
import stat
import subprocess
from pathlib import Path

import pytest

from .conftest import Box, Make


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "rootfs/etc").mkdir(parents=True)
    (folder / "rootfs/dev").mkdir()
    (folder / "config.json").write_text(json.dumps({"root": {"path": "rootfs"}}))
    return folder


def hook(box: Box, bundle: Path, *arguments: str, program: str = "nvidia-cdi-hook") -> subprocess.CompletedProcess[str]:
    words = ["hook", *arguments] if program == "nvidia-ctk" else list(arguments)
    return box.run(program, *words, stdin=json.dumps({"ociVersion": "1.0.2", "bundle": str(bundle)}))


@pytest.mark.parametrize("program", ["nvidia-cdi-hook", "nvidia-ctk"])
def test_links(make: Make, bundle: Path, program: str) -> None:
    box, root = make(), bundle / "rootfs"
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/lib/libx.so.1").write_text("in the way")
    links = ["--link", "libx.so.9.9::/usr/lib/libx.so.1", "--link", "libx.so.1::/usr/lib/deep/libx.so"]
    for _ in range(2):
        assert hook(box, bundle, "create-symlinks", *links, program=program).returncode == 0
    assert str((root / "usr/lib/libx.so.1").readlink()) == "libx.so.9.9"
    assert str((root / "usr/lib/deep/libx.so").readlink()) == "libx.so.1"


@pytest.mark.parametrize("target", ["/", "../../../..", "/etc/../.."])
def test_links_stay_inside_the_container(make: Make, bundle: Path, tmp_path: Path, target: str) -> None:
    """A folder of the image that points out of it leads back into it."""
    (bundle / "rootfs/way-out").symlink_to(target)
    name = "planted-by-a-test"
    assert hook(make(), bundle, "create-symlinks", "--link", f"x::/way-out/{name}").returncode == 0
    assert (bundle / "rootfs" / name).is_symlink()
    assert not Path("/", name).is_symlink()


def test_linker_cache(make: Make, bundle: Path) -> None:
    box, root = make(), bundle / "rootfs"
    library = next((box.root / "usr/lib/x86_64-linux-gnu").glob("libnvidia-cfg.so.*.*"))
    (root / "opt/gpu").mkdir(parents=True)
    (root / "opt/gpu" / library.name).write_bytes(library.read_bytes())
    done = hook(box, bundle, "update-ldcache", "--folder", "/opt/gpu")
    assert done.returncode == 0, done.stderr
    [extra] = (root / "etc/ld.so.conf.d").iterdir()
    assert extra.name.startswith("zz-nvcr-") and extra.read_text() == "/opt/gpu\n"
    assert stat.S_IMODE(extra.stat().st_mode) == 0o644
    cache = subprocess.run(["/sbin/ldconfig", "-r", str(root), "-p"], capture_output=True, text=True, check=True).stdout
    assert "libnvidia-cfg.so.1" in cache
    assert (root / "opt/gpu/libnvidia-cfg.so.1").is_symlink()


def test_linker_cache_of_an_image_without_one(make: Make, bundle: Path) -> None:
    (bundle / "rootfs/etc").rmdir()
    assert hook(make(), bundle, "update-ldcache", "--folder", "/opt/gpu").returncode == 0
    assert not (bundle / "rootfs/etc").exists()


@pytest.mark.parametrize(("major", "preferred"), [(535, False), (550, False), (560, True)])
def test_compatibility_libraries(make: Make, bundle: Path, major: int, preferred: bool) -> None:
    folder = bundle / "rootfs/usr/local/cuda/compat"
    folder.mkdir(parents=True)
    (folder / f"libcuda.so.{major}.35.03").write_text("")
    assert hook(make(), bundle, "enable-cuda-compat", "--host-driver-version=550.163.01").returncode == 0
    found = list((bundle / "rootfs/etc").glob("ld.so.conf.d/00-compat-*"))
    assert [path.read_text() for path in found] == (["/usr/local/cuda/compat\n"] if preferred else [])


def test_node_modification_without_the_drivers_parameters(make: Make, bundle: Path) -> None:
    assert hook(make(), bundle, "disable-device-node-modification").returncode == 0
    assert not (bundle / "rootfs/proc").exists()


def test_application_profile_has_the_visible_gpus(make: Make, bundle: Path) -> None:
    for name in ("nvidia1", "nvidia3", "nvidiactl", "nvidia-uvm"):
        (bundle / "rootfs/dev" / name).touch()
    assert hook(make(), bundle, "update-application-profile").returncode == 0
    [path] = (bundle / "rootfs/etc/nvidia/nvidia-application-profiles-rc.d").iterdir()
    assert json.loads(path.read_text())["profiles"][0]["settings"] == ["EGLVisibleDGPUDevices", 0b1010]


def test_chmod(make: Make, bundle: Path) -> None:
    folder = bundle / "rootfs/dev/dri"
    folder.mkdir(mode=0o700)
    assert hook(make(), bundle, "chmod", "--mode=755", "--path", "/dev/dri", "--path", "/not/there").returncode == 0
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_state_that_makes_no_sense(make: Make) -> None:
    done = make().run("nvidia-cdi-hook", "create-symlinks", "--link", "a::/b", stdin="nonsense")
    assert done.returncode == 1
    assert "level=error" in done.stderr
