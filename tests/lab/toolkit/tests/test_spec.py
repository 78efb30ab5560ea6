"""The specification itself: its shape, its file, and what flags, releases and devices change in it."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..standin import plainyaml
from ..standin import spec as writer
from .conftest import SAMPLE, Box, Make

Spec = dict[str, Any]


def generate(box: Box, *arguments: str, name: str = "out/nvidia.yaml") -> Spec:
    done = box.ctk("cdi", "generate", f"--output={name}", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    found: Spec = yaml.safe_load((box.root / name).read_text())
    return found


def names(spec: Spec) -> list[str]:
    return [device["name"] for device in spec["devices"]]


def hook_names(spec: Spec) -> list[str]:
    return [hook["args"][1] for hook in spec["containerEdits"].get("hooks", [])]


def test_two_gpus_are_the_sample(make: Make) -> None:
    box = make()
    assert generate(box) == yaml.safe_load(SAMPLE.read_text())
    assert (box.root / "out/nvidia.yaml").read_bytes() == SAMPLE.read_bytes()


def test_again_gives_the_same_bytes_in_a_new_file(make: Make) -> None:
    box = make()
    generate(box)
    path = box.root / "out/nvidia.yaml"
    before, inode = path.read_bytes(), path.stat().st_ino
    generate(box)
    assert path.read_bytes() == before
    assert path.stat().st_ino != inode


def test_stdout_is_the_specification(make: Make) -> None:
    assert make().ctk("--quiet", "cdi", "generate").stdout == SAMPLE.read_text()


def test_json_is_one_line(make: Make) -> None:
    box = make()
    spec = generate(box, name="x.json")
    text = (box.root / "x.json").read_text()
    assert json.loads(text) == spec == yaml.safe_load(SAMPLE.read_text())
    assert "\n" not in text and ": " not in text


def test_extension_is_added(make: Make) -> None:
    box = make()
    box.ctk("cdi", "generate", "--output=noext")
    assert (box.root / "noext.yaml").read_bytes() == SAMPLE.read_bytes()
    assert not (box.root / "noext").exists()


def test_mode_is_0644_whatever_the_umask(make: Make) -> None:
    box = make()
    before = os.umask(0o077)
    try:
        generate(box)
    finally:
        os.umask(before)
    assert stat.S_IMODE((box.root / "out/nvidia.yaml").stat().st_mode) == 0o644
    assert stat.S_IMODE((box.root / "out").stat().st_mode) == 0o700


def test_file_is_closed_to_others_until_after_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order that leaves a rootless engine with a file it could not read when it looked."""
    seen = []
    rename = Path.rename

    def watched(path: Path, target: Path) -> Path:
        seen.append((path.name.startswith("spec."), path.name.endswith(".tmp"), stat.S_IMODE(path.stat().st_mode)))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", watched)
    writer.write({"cdiVersion": "0.3.0"}, tmp_path / "a.yaml", "yaml")
    assert seen == [(True, True, 0o600)]
    assert stat.S_IMODE((tmp_path / "a.yaml").stat().st_mode) == 0o644


def test_failure_leaves_the_old_file(make: Make) -> None:
    box = make("not-loaded")
    (box.root / "out").mkdir()
    (box.root / "out/nvidia.yaml").write_text("old")
    assert box.ctk("cdi", "generate", "--output=out/nvidia.yaml").returncode == 1
    assert [path.read_text() for path in (box.root / "out").iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--device-name-strategy=type-index"], ["all", "gpu0", "gpu1"]),
        (["--device-name-strategy=index", "--device-name-strategy=type-index"], ["0", "1", "all", "gpu0", "gpu1"]),
        (["--device-name-strategy=index", "--no-all-device"], ["0", "1"]),
        (["--device-name-strategy=index", "--device-id=1"], ["1", "all"]),
        (["--device-name-strategy=index", "--device-id=GPU-12345678-1234-1234-1234-123456780001"], ["1", "all"]),
        (["--device-id=none"], ["none"]),
        (["--mode=management"], ["all"]),
    ],
)
def test_device_names(make: Make, arguments: list[str], expected: list[str]) -> None:
    assert names(generate(make(), *arguments)) == expected


def test_no_device_has_one_variable(make: Make) -> None:
    [device] = generate(make(), "--device-id=none")["devices"]
    assert device["containerEdits"] == {"env": ["NVCT_EMPTY_DEVICE="]}


def test_chosen_device_is_all_that_all_has(make: Make) -> None:
    spec = generate(make(), "--device-id=1")
    edits = {
        device["name"]: [node["path"] for node in device["containerEdits"]["deviceNodes"]] for device in spec["devices"]
    }
    assert edits["all"] == edits["1"] == ["/dev/nvidia1"]


@pytest.mark.parametrize(
    ("arguments", "hooks"),
    [
        (["--disable-hook=all"], []),
        (
            ["--disable-hook=enable-cuda-compat", "--disable-hooks", "update-application-profile"],
            ["create-symlinks", "update-ldcache", "disable-device-node-modification"],
        ),
        (
            ["--disable-hook=enable-cuda-compat,update-ldcache", "--enable-hook=update-ldcache"],
            ["create-symlinks", "update-ldcache", "disable-device-node-modification", "update-application-profile"],
        ),
    ],
)
def test_hooks_left_out(make: Make, arguments: list[str], hooks: list[str]) -> None:
    spec = generate(make(), *arguments)
    assert hook_names(spec) == hooks
    assert ("hooks" in spec["containerEdits"]) == bool(hooks)


def test_ldconfig_path(make: Make) -> None:
    hooks = generate(make(), "--ldconfig-path", "/sbin/ldconfig.real")["containerEdits"]["hooks"]
    assert hooks[2]["args"][1:] == [
        "update-ldcache",
        "--ldconfig-path",
        "/sbin/ldconfig.real",
        "--folder",
        "/usr/lib/x86_64-linux-gnu",
    ]


def test_hooks_of_the_other_program(make: Make) -> None:
    hook = generate(make(), "--nvidia-cdi-hook-path=nvidia-ctk")["containerEdits"]["hooks"][0]
    assert hook["path"] == "/usr/bin/nvidia-ctk"
    assert hook["args"][:3] == ["nvidia-ctk", "hook", "create-symlinks"]


def test_vendor_and_class(make: Make) -> None:
    assert generate(make(), "--vendor=example.org", "--class=thing")["kind"] == "example.org/thing"


@pytest.mark.parametrize(
    ("release", "node", "profile"),
    [
        ("1.18.2", {"path": "/dev/nvidia1"}, False),
        ("1.19.1", {"path": "/dev/nvidia1", "major": 195, "minor": 1, "fileMode": 438, "permissions": "rwm"}, False),
        ("1.20.0", {"path": "/dev/nvidia1", "major": 195, "minor": 1, "fileMode": 438, "permissions": "rwm"}, True),
    ],
)
def test_releases(make: Make, release: str, node: Spec, profile: bool) -> None:
    spec = generate(make(release=release))
    assert spec["cdiVersion"] == "0.5.0"
    assert spec["devices"][1]["containerEdits"]["deviceNodes"] == [node]
    assert ("update-application-profile" in hook_names(spec)) == profile
    assert "disable-device-node-modification" in hook_names(spec)


def test_missing_uvm_is_silently_not_there(make: Make) -> None:
    paths = [node["path"] for node in generate(make("uvm-missing"))["containerEdits"]["deviceNodes"]]
    assert paths == ["/dev/nvidia-modeset", "/dev/nvidiactl"]


def test_missing_libcuda_is_silently_not_there(make: Make) -> None:
    text = json.dumps(generate(make("no-cuda-library"))["containerEdits"]["mounts"])
    assert "libcuda.so" not in text
    assert "libnvidia-ml.so.550.163.01" in text


def test_socket_that_is_not_there_is_not_listed(make: Make) -> None:
    box = make()
    (box.root / "run/nvidia-persistenced/socket").unlink()
    assert "persistenced/socket" not in json.dumps(generate(box))


def test_other_driver_version(make: Make) -> None:
    text = json.dumps(generate(make(settings=("version=560.35.03",))))
    assert "550" not in text.replace("1234-1234", "")
    assert "--host-driver-version=560.35.03" in text


def real_nodes(box: Box, mode: int, group: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("device nodes can be made by root only")
    for path in (box.root / "dev").iterdir():
        path.unlink()
        os.mknod(path, stat.S_IFCHR, os.makedev(1, 3))
        path.chmod(mode)
        os.chown(path, 0, group)


def test_group_of_the_nodes(make: Make) -> None:
    box = make()
    real_nodes(box, 0o660, 44)
    spec = generate(box)
    assert spec["cdiVersion"] == "0.7.0"
    node = {"path": "/dev/nvidia0", "major": 195, "fileMode": 432, "permissions": "rwm", "gid": 44}
    assert spec["devices"][0]["containerEdits"] == {"deviceNodes": [node], "additionalGids": [44]}
    spec = generate(box, "--feature-flag=no-additional-gids-for-device-nodes")
    assert spec["cdiVersion"] == "0.5.0"
    assert spec["devices"][0]["containerEdits"] == {"deviceNodes": [node]}


def test_display_nodes_go_with_their_gpu(make: Make) -> None:
    box = make()
    links = box.root / "dev/dri/by-path"
    links.mkdir(parents=True)
    for name, target in (("card", "../card1"), ("render", "../renderD128")):
        (links / f"pci-0000:0f:00.0-{name}").symlink_to(target)
        (links / target).symlink_to("/dev/null")
    first, second = (device["containerEdits"] for device in generate(box)["devices"][:2])
    assert [node["path"] for node in first["deviceNodes"]] == ["/dev/nvidia0"]
    assert [node["path"] for node in second["deviceNodes"]] == ["/dev/dri/card1", "/dev/dri/renderD128", "/dev/nvidia1"]
    assert second["hooks"][0]["args"][2:] == [
        "--link",
        "../card1::/dev/dri/by-path/pci-0000:0f:00.0-card",
        "--link",
        "../renderD128::/dev/dri/by-path/pci-0000:0f:00.0-render",
    ]


def test_mig_devices(make: Make) -> None:
    spec = generate(make(settings=("gpu.1.mig=1g.5gb,2g.10gb",)))
    mig = [f"MIG-00000001-000{n}-5000-8000-123456780000" for n in (1, 2)]
    assert names(spec) == ["0", "1:0", "1:1", "GPU-12345678-1234-1234-1234-123456780000", *mig, "all"]
    nodes = spec["devices"][1]["containerEdits"]["deviceNodes"]
    assert [(node["path"], node["major"], node.get("minor", 0)) for node in nodes] == [
        ("/dev/nvidia1", 195, 1),
        ("/dev/nvidia-caps/nvidia-cap147", 235, 147),
        ("/dev/nvidia-caps/nvidia-cap148", 235, 148),
    ]


def test_coherence_annotations_make_a_second_file(make: Make) -> None:
    box = make()
    spec = generate(box, "--feature-flag=enable-coherent-annotations")
    other = yaml.safe_load((box.root / "out/nvidia.noncoherent.yaml").read_text())
    assert (spec["kind"], spec["cdiVersion"]) == ("nvidia.com/gpu", "0.6.0")
    assert (other["kind"], other["cdiVersion"]) == ("nvidia.com/gpu.noncoherent", "0.6.0")


@pytest.mark.parametrize(
    "text",
    [
        SAMPLE.read_text(),
        "a: 1\nb:\n- x\n- y: 'it''s'\n  z: [1, two, \"3\"]\n",
        'cdiVersion: 0.6.0 # note\nkind: "a/b"\ndevices:\n  -\n    name: x\n    containerEdits: {}\n',
    ],
)
def test_yaml_is_read_as_others_read_it(text: str) -> None:
    assert plainyaml.load(text) == yaml.safe_load(text)


@pytest.mark.parametrize("text", ["a: [1", "a: b\n   c: d\n", "\tx: 1", "just words\nand more", '{"a": }'])
def test_yaml_that_others_refuse_is_refused(text: str) -> None:
    with pytest.raises(plainyaml.YamlError):
        plainyaml.load(text)
