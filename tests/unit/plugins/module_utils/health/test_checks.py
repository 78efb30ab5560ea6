"""Every condition that host_health_info knows: found where it is, and nothing found on a healthy host."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._health import examine
from ansible_collections.gpulab.fleet.plugins.module_utils._health_view import Result, Space, Unreadable
from ansible_collections.gpulab.fleet.plugins.module_utils._nvml import CODES
from ansible_collections.gpulab.fleet.plugins.modules.host_health_info import CHECKS

MIB = 1024**2
UUIDS = ("GPU-12345678-1234-1234-1234-123456780000", "GPU-12345678-1234-1234-1234-123456780001")
SPEC = "/var/lib/gpulab/cdi/alice/nvidia.json"
DAEMON = "/home/alice/.config/docker/daemon.json"
SOCKET = "/run/user/1000/docker.sock"
UNIT = "LoadState=loaded\nActiveState={0}\nSubState={1}\nResult={2}\nUnitFileState={3}\nMainPID=7\n"
SOURCES = "/etc/apt/sources.list.d"
RELEASE = 'ID={}\nVERSION_ID="{}"\n'
CDI_ERROR = "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=0"
LOST = {"Id": "c1", "Names": ["/train"], "State": "exited", "Status": "Exited (128) 2 minutes ago"}
ROOTFUL: dict[str, Any] = {
    "commands": {"systemctl show docker.service": Result(0, UNIT.format("active", "running", "success", "enabled"), "")}
}
SYSTEM_SPEC = """\
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
    - name: "0"
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
              major: 195
containerEdits:
    deviceNodes:
        - path: /dev/nvidia-uvm
          major: {1}
          permissions: rwm
    hooks:
        - hookName: createContainer
          path: /usr/bin/nvidia-cdi-hook
          args:
            - nvidia-cdi-hook
    mounts:
        - hostPath: /usr/lib/x86_64-linux-gnu/{0}
          containerPath: /usr/lib/x86_64-linux-gnu/{0}
"""
KERNEL = "/lib/modules/5.15.0-91-generic/"
MODULE = "kernel/fs/ext4.ko:\nupdates/dkms/nvidia.ko:\nupdates/dkms/nvidia-uvm.ko: updates/dkms/nvidia.ko\n"
NOT_LOADED: dict[str, Any] = {"files": {"/proc/driver/nvidia/version": None}, "commands": {"nvidia-smi": None}}
NO_DRIVER: dict[str, Any] = {
    "files": {"/proc/driver/nvidia/version": None, "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.550.1": None},
    "packages": {"libnvidia-compute-550": None},
    "commands": {"nvidia-smi": None},
}
ALL = {"gpulab_users": {"alice": {"gpus": "all"}}}


def spec_with(**edits: Any) -> str:
    common = {"deviceNodes": [{"path": "/dev/nvidia0", "major": 195}], "mounts": [], "hooks": []} | edits
    return json.dumps({"kind": "nvidia.com/gpu", "devices": [{"name": "0"}], "containerEdits": common})


def smi(rc: int, text: str) -> dict[str, Any]:
    return {"commands": {"nvidia-smi": Result(rc, text, "")}}


def user_unit(*state: str) -> dict[str, Any]:
    return {"commands": {"systemctl --user show docker.service": Result(0, UNIT.format(*state), "")}}


def mounts(home: str) -> str:
    return (
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:2 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
        f"3 1 0:9 / /home rw,relatime shared:1 - {home} rw\n"
    )


def xid(number: int) -> dict[str, Any]:
    line = f"NVRM: Xid (PCI:0000:07:00): {number}, pid=1, name=python3\n"
    return {"commands": {"journalctl": Result(0, "Linux version 5.15\n" + line * 2, "")}}


# What a host is like -> the codes that it must give, all of them and no other.
FAULTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    # host
    "other distribution": ({"files": {"/etc/os-release": RELEASE.format("fedora", "42")}}, {"OS_UNSUPPORTED"}),
    "older release": ({"files": {"/etc/os-release": RELEASE.format("ubuntu", "20.04")}}, {"OS_UNSUPPORTED"}),
    "newer release": ({"files": {"/etc/os-release": RELEASE.format("ubuntu", "26.04")}}, {"PLATFORM_UNTESTED"}),
    "32-bit arm": ({"machine": "armv7l"}, {"ARCH_UNSUPPORTED"}),
    "arm": ({"machine": "aarch64"}, {"PLATFORM_UNTESTED"}),
    "old systemd": ({"commands": {"systemctl --version": Result(0, "systemd 237\n", "")}}, {"SYSTEMD_TOO_OLD"}),
    "cgroup v1": ({"files": {"/proc/self/mountinfo": "2 1 0:2 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"}}, {"CGROUP_V1"}),
    "no memory controller": (
        {"files": {"/sys/fs/cgroup/cgroup.controllers": "cpuset cpu pids\n"}},
        {"CGROUP_CONTROLLERS_MISSING"},
    ),
    "cpu not delegated": (
        {"files": {"/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/cgroup.controllers": "memory pids\n"}},
        {"CGROUP_NOT_DELEGATED"},
    ),
    "user namespaces off": ({"files": {"/proc/sys/kernel/unprivileged_userns_clone": "0\n"}}, {"USERNS_DISABLED"}),
    "no user namespaces": ({"files": {"/proc/sys/user/max_user_namespaces": "0\n"}}, {"USERNS_DISABLED"}),
    "few user namespaces": ({"files": {"/proc/sys/user/max_user_namespaces": "64\n"}}, {"USERNS_FEW"}),
    "apparmor": (
        {"files": {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"}},
        {"USERNS_APPARMOR_RESTRICTED"},
    ),
    "newuidmap not set-uid": (
        {
            "files": {"/usr/bin/newuidmap": ""},
            "nodes": {"/usr/bin/newuidmap": {"mode": 0o755}},
            "commands": {"getcap": Result(0, "", "")},
        },
        {"UIDMAP_NOT_PRIVILEGED"},
    ),
    "home on NFS": (
        {"files": {"/proc/self/mountinfo": mounts("nfs4 filer:/home")}},
        {"DATA_ROOT_NETWORK_FS"},
    ),
    "home on NFS and the data elsewhere": (
        {
            "files": {"/proc/self/mountinfo": mounts("nfs4 filer:/home")},
            "settings": {"gpulab_users": {"alice": {"gpus": "all", "daemon": {"data-root": "/scratch/alice"}}}},
        },
        set(),
    ),
    "data root of root's": (
        {"nodes": {"/home/alice/.local/share/docker": {"uid": 0}}},
        {"DATA_ROOT_NOT_OWNED"},
    ),
    "disk full": ({"spaces": {"/": Space(900 * MIB, 100 * MIB, 1000, 900)}}, {"DISK_FULL"}),
    "no inodes": ({"spaces": {"/": Space(9000 * MIB, 8000 * MIB, 10000, 9)}}, {"DISK_FULL"}),
    "disk low": ({"spaces": {"/": Space(90000 * MIB, 3000 * MIB, 1000, 900)}}, {"DISK_LOW"}),
    "clock behind": ({"controller_time": time.time() + 90000}, {"CLOCK_OFF"}),
    # packages
    "two keys for one source": (
        {
            "files": {
                f"{SOURCES}/docker.list": "deb [arch=amd64 signed-by=/usr/share/keyrings/docker.gpg] "
                "https://download.docker.com/linux/ubuntu/ jammy stable\n"
            }
        },
        {"APT_SOURCE_TAKEN_OVER"},
    ),
    "two keys for a mirror": (
        {
            "files": {f"{SOURCES}/x.list": "deb [signed-by=/k.gpg] http://mirror.lan/docker jammy stable\n"},
            "settings": {**ALL, "rootless_docker_repository_url": "http://mirror.lan/docker"},
        },
        {"APT_SOURCE_TAKEN_OVER"},
    ),
    "two keys for somebody else's source": (
        {
            "files": {
                f"{SOURCES}/a.list": "deb [signed-by=/k.gpg] http://archive.lan jammy main\n",
                f"{SOURCES}/b.sources": "URIs: http://archive.lan/\nSuites: jammy\nSigned-By: /other.gpg\n",
            }
        },
        {"APT_SOURCE_CONFLICT"},
    ),
    "the vendor's source beside the distribution's packages": (
        {
            "files": {
                f"{SOURCES}/docker.list": "deb [signed-by=/k.gpg] https://download.docker.com/linux/ubuntu jammy stable\n"
            },
            "settings": {**ALL, "rootless_docker_source": "distribution"},
        },
        {"APT_SOURCE_CONFLICT", "ENGINE_OTHER_ORIGIN"},
    ),
    "old source of the toolkit": (
        {"files": {f"{SOURCES}/nv.list": "deb https://nvidia.github.io/nvidia-docker/ubuntu18.04/$(ARCH) /\n"}},
        {"APT_SOURCE_TAKEN_OVER"},
    ),
    "dead source": (
        {
            "files": {
                f"{SOURCES}/nv.list": "deb https://nvidia.github.io/nvidia-docker/ubuntu18.04/$(ARCH) /\n",
                **{f"/sys/bus/pci/devices/0000:07:00.0/{name}": None for name in ("vendor", "class")},
                "/proc/driver/nvidia/version": None,
                "/dev/nvidia0": None,
                "/dev/nvidia1": None,
            },
            "settings": {"gpulab_users": {"alice": {}}},
        },
        {"APT_SOURCE_DEAD"},
    ),
    "own journal": ({"files": {"/var/lib/gpulab/journal/journal.json": ""}}, {"JOURNAL_INVALID"}),
    "dpkg journal": ({"files": {"/var/lib/dpkg/updates/0003": ""}}, {"DPKG_INTERRUPTED"}),
    "package half-way": ({"packages": {"vim": ("9", "install ok half-configured")}}, {"DPKG_INTERRUPTED"}),
    "package to reinstall": ({"packages": {"vim": ("9", "install reinstreq half-installed")}}, {"DPKG_REINSTALL"}),
    "our package to reinstall": (
        {"packages": {"docker-ce": ("5:28.5.2-1", "install reinstreq half-installed")}},
        {"DPKG_INTERRUPTED"},
    ),
    "driver upgraded at night": ({"packages": {"unattended-upgrades": "2.8"}}, {"DRIVER_UPGRADES_UNATTENDED"}),
    "an authority and no tool": (
        {"settings": {**ALL, "gpulab_proxy": {"ca": "x"}}},
        {"CA_TOOL_MISSING", "SETTING_INVALID"},
    ),
    # engines in the way
    "rootful engine": (ROOTFUL, {"ROOTFUL_ENGINE"}),
    "rootful engine to end": (
        {**ROOTFUL, "settings": {**ALL, "rootless_docker_rootful": "remove"}},
        {"ROOTFUL_ENGINE_ENDED"},
    ),
    "rootful engine to keep": ({**ROOTFUL, "settings": {**ALL, "rootless_docker_rootful": "keep"}}, set()),
    "snap": ({"files": {"/snap/docker/2932/meta": ""}}, {"DOCKER_SNAP"}),
    "desktop": ({"packages": {"docker-desktop": "4.50.0-1"}}, {"DOCKER_DESKTOP"}),
    "podman-docker": ({"packages": {"podman-docker": "3.4"}}, {"PODMAN_DOCKER"}),
    "other origin": (
        {
            "packages": {"docker-ce": None, "docker.io": "28.5.2-1"},
            "settings": {**ALL, "rootless_docker_source": "vendor"},
        },
        {"ENGINE_OTHER_ORIGIN"},
    ),
    "kubelet": (
        {
            "commands": {
                "systemctl show kubelet.service": Result(0, UNIT.format("active", "running", "success", "enabled"), "")
            }
        },
        {"KUBERNETES_NODE"},
    ),
    "broken rootful daemon.json": ({"files": {"/etc/docker/daemon.json": "{,"}}, {"DAEMON_JSON_INVALID"}),
    "typo in rootful daemon.json": (
        {"files": {"/etc/docker/daemon.json": '{"cdi-spec-dir": []}'}},
        {"DAEMON_JSON_TYPO"},
    ),
    # users' engines
    "engine too old": (
        {"packages": {"docker-ce": "5:25.0.1-1~ubuntu.22.04~jammy"}},
        {"ENGINE_TOO_OLD"},
    ),
    "engine before 28.2": (
        {"packages": {"docker-ce": "5:26.1.5-1~ubuntu.22.04~jammy"}},
        {"ENGINE_BELOW_RECOMMENDED"},
    ),
    "user's manager down": ({"files": {"/run/user/1000/systemd/.keep": None}}, {"USER_MANAGER_DOWN"}),
    "engine down": (user_unit("failed", "failed", "exit-code", "enabled"), {"ENGINE_DOWN"}),
    "start limit": (user_unit("failed", "failed", "start-limit-hit", "enabled"), {"ENGINE_START_LIMIT"}),
    "engine mute": ({"sockets": {SOCKET: None}}, {"ENGINE_UNRESPONSIVE"}),
    "old programs": ({"links": {"/proc/70/exe": "/usr/bin/dockerd (deleted)"}}, {"ENGINE_RESTART_PENDING"}),
    "cdi off": (
        {"files": {DAEMON: json.dumps({"features": {"cdi": False}, "cdi-spec-dirs": ["/var/lib/gpulab/cdi/alice"]})}},
        {"ENGINE_CDI_OFF"},
    ),
    "cdi not on in 26.1": (
        {
            "files": {DAEMON: json.dumps({"cdi-spec-dirs": ["/var/lib/gpulab/cdi/alice"]})},
            "packages": {"docker-ce": "5:26.1.5-1"},
        },
        {"ENGINE_CDI_OFF", "ENGINE_BELOW_RECOMMENDED"},
    ),
    "broken daemon.json": ({"files": {DAEMON: "{"}}, {"DAEMON_JSON_INVALID"}),
    "typo in daemon.json": ({"files": {DAEMON: '{"cdi-spec-dir": []}'}}, {"DAEMON_JSON_TYPO"}),
    "cdi folder not named": ({"files": {DAEMON: "{}"}}, {"ENGINE_CDI_FOLDER"}),
    "container gave up": (
        {
            "sockets": {
                SOCKET: {
                    "/info": {"ServerVersion": "28.5.2"},
                    "/containers/json": [LOST],
                    "/containers/c1/json": {"State": {"Error": CDI_ERROR}},
                }
            }
        },
        {"CONTAINER_LOST_GPU"},
    ),
    # users
    "shared ids": ({"files": {"/etc/subuid": "alice:100000:65536\nbob:150000:65536\n"}}, {"SUBID_OVERLAP"}),
    "broken id file": ({"files": {"/etc/subgid": "alice:100000:65536\nbob\n"}}, {"SUBID_FILE_INVALID"}),
    "a service's account": (
        {
            "files": {"/etc/passwd": "root:x:0:0::/root:/bin/sh\nwww:x:33:33::/var/www:/bin/sh\n"},
            "settings": {"gpulab_users": {"www": {}}},
        },
        {"USER_IS_SYSTEM"},
    ),
    "an account to be made among the services'": (
        {"settings": {"gpulab_users": {"sim": {"create": True, "uid": 500}}}},
        {"USER_IS_SYSTEM"},
    ),
    "a service's account on purpose": (
        {"settings": {"gpulab_users": {"sim": {"create": True, "uid": 500, "system": True}}}},
        set(),
    ),
    "nobody on purpose": (
        {"settings": {"gpulab_users": {"nobody": {"create": True, "uid": 65534, "system": True}}}},
        {"USER_IS_SYSTEM"},
    ),
    "root by a group": (
        {
            "settings": {"gpulab_users": {"alice": {"gpus": "all"}}},
            "commands": {"getent group docker": Result(0, "docker:x:998:bob,alice\n", "")},
        },
        {"USER_IN_DOCKER_GROUP"},
    ),
    "somebody else in that group": (
        {
            "settings": {"gpulab_users": {"alice": {"gpus": "all"}}},
            "commands": {"getent group docker": Result(0, "docker:x:998:bob\n", "")},
        },
        set(),
    ),
    "a limit without its controller": (
        {
            "files": {"/sys/fs/cgroup/cgroup.controllers": "cpuset cpu pids\n"},
            "settings": {"gpulab_users": {"alice": {"gpus": "all", "limits": {"cpus": 2, "memory": "64G"}}}},
        },
        {"LIMIT_UNENFORCEABLE", "CGROUP_CONTROLLERS_MISSING"},
    ),
    "limits that bind": (
        {"settings": {"gpulab_users": {"alice": {"gpus": "all", "limits": {"cpus": 2, "memory": "64G"}}}}},
        set(),
    ),
    "a data root that the inventory names and root owns": (
        {
            "files": {"/scratch/alice/.keep": ""},
            "settings": {"gpulab_users": {"alice": {"gpus": "all", "daemon": {"data-root": "/scratch/alice"}}}},
        },
        {"DATA_ROOT_NOT_OWNED"},
    ),
    "sudo docker": (
        {"nodes": {"/home/alice/.docker": {"uid": 0}}, "settings": {"gpulab_users": {"alice": {}}}},
        {"HOME_UNUSABLE"},
    ),
    "sudo docker, of one who leaves": (
        {"nodes": {"/home/alice/.docker": {"uid": 0}}, "settings": {"gpulab_users": {"alice": {"state": "absent"}}}},
        set(),
    ),
    "few ids": ({"files": {"/etc/subgid": "alice:100000:1000\n"}}, {"SUBID_MISSING"}),
    "an engine that nobody names": (
        {
            "settings": {"gpulab_users": {"alice": {}}},
            "files": {
                "/etc/passwd": "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:\nbob:x:1001:1001::/home/bob:\n",
                "/var/lib/systemd/linger/bob": "",
                "/home/bob/.config/systemd/user/docker.service": "# Kept by gpulab.fleet (rootless_docker_user); x\n",
            },
        },
        {"USER_LEFT_OVER"},
    ),
    "no linger": ({"files": {"/var/lib/systemd/linger/alice": None}}, {"LINGER_OFF"}),
    "logged out without linger": (
        {"files": {"/var/lib/systemd/linger/alice": None, "/run/user/1000/systemd/.keep": None}},
        {"LINGER_OFF"},
    ),
    "no bus": ({"files": {"/run/user/1000/bus": None}}, {"USER_BUS_MISSING"}),
    "no context": ({"files": {"/home/alice/.docker/config.json": None}}, {"CLI_ELSEWHERE"}),
    "undefined context": (
        {"files": {"/home/alice/.docker/config.json": '{"currentContext": "lab"}'}},
        {"CLI_ELSEWHERE"},
    ),
    "desktop's context": (
        {"files": {"/home/alice/.docker/config.json": '{"currentContext": "desktop-linux"}'}},
        {"CLI_ELSEWHERE", "DOCKER_DESKTOP"},
    ),
    # driver
    "nouveau": (
        {"files": {"/proc/driver/nvidia/version": None, "/sys/module/nouveau/x": ""}, "commands": {"nvidia-smi": None}},
        {"NOUVEAU_LOADED"},
    ),
    "no driver": (
        {"files": {"/proc/driver/nvidia/version": None}, "commands": {"nvidia-smi": None}},
        {"DRIVER_NOT_LOADED"},
    ),
    "no driver at all": (NO_DRIVER, {"DRIVER_MISSING"}),
    "no driver at all, but expected": (
        {**NO_DRIVER, "settings": {**ALL, "gpulab_gpus_expected": 2}},
        {"DRIVER_EXPECTED"},
    ),
    "no headers": (
        {**NOT_LOADED, "packages": {"nvidia-dkms-550": "550.1-0ubuntu1"}},
        {"DRIVER_HEADERS_MISSING"},
    ),
    "not signed": (
        {
            "files": {
                **NOT_LOADED["files"],
                KERNEL + "modules.dep": MODULE,
                "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": "\x06\0\0\0\x01",
            },
            "commands": {"nvidia-smi": None},
        },
        {"DRIVER_NOT_SIGNED"},
    ),
    "next kernel without it": (
        {
            "files": {
                KERNEL + "modules.dep": MODULE,
                "/boot/vmlinuz-5.15.0-91-generic": "",
                "/boot/vmlinuz-5.15.0-101-generic": "",
                "/lib/modules/5.15.0-101-generic/modules.dep": "kernel/fs/ext4.ko:\n",
            }
        },
        {"DRIVER_NOT_FOR_NEXT_KERNEL"},
    ),
    "waits for a reboot": (
        {"files": {"/run/reboot-required": "", "/run/reboot-required.pkgs": "linux-image-generic\n"}},
        {"REBOOT_NEEDED"},
    ),
    "library newer": (
        {
            "files": {
                "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.550.1": None,
                "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.560.35.03": "",
            }
        },
        {"NVML_LIBRARY_MISMATCH"},
    ),
    "mismatch by code": (
        smi(18, "Failed to initialize NVML: Driver/library version mismatch"),
        {"NVML_LIBRARY_MISMATCH"},
    ),
    "gpu lost": (smi(15, "Unable to determine the device handle for GPU0000:07:00.0: GPU is lost."), {"NVML_GPU_LOST"}),
    "no devices": (smi(6, "No devices were found"), {"NVML_NO_DEVICES"}),
    "no devices, rc 0": (smi(0, "No devices found."), {"NVML_NO_DEVICES"}),
    "unknown error": (smi(255, "Failed to initialize NVML: Unknown Error"), {"NVML_UNKNOWN"}),
    "odd code": (smi(2, "Invalid Argument"), {"NVML_ERROR"}),
    "driver hangs": (
        {"commands": {"nvidia-smi": Unreadable("nvidia-smi", "no answer within 30 s")}},
        {"NVML_TIMEOUT"},
    ),
    "old driver": (
        {
            "files": {
                "/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  515.43.04  Release\n",
                "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.550.1": None,
            }
        },
        {"DRIVER_TOO_OLD"},
    ),
    "one GPU too few": ({"settings": {**ALL, "gpulab_gpus_expected": 3}}, {"PROOF_GPU_COUNT"}),
    "GPUs where none is expected": (
        {"settings": {"gpulab_users": {"alice": {}}, "gpulab_gpus_expected": 0}},
        {"PROOF_GPU_COUNT"},
    ),
    "expected GPUs of a dead driver": (
        {**smi(15, "GPU is lost"), "settings": {**ALL, "gpulab_gpus_expected": 2}},
        {"NVML_GPU_LOST"},
    ),
    "a new account with a uid of another": (
        {"settings": {"gpulab_users": {"bob": {"create": True, "uid": 1000}}}},
        {"UID_TAKEN"},
    ),
    "a new account with root's uid": (
        {"settings": {"gpulab_users": {"bob": {"create": True, "uid": "0"}}}},
        {"UID_TAKEN"},
    ),
    "a new account with a uid of the directory's": (
        {
            "settings": {"gpulab_users": {"bob": {"create": True, "uid": 5000}}},
            "commands": {"getent passwd 5000": Result(0, "carol:*:5000:5000::/home/carol:/bin/sh\n", "")},
        },
        {"UID_TAKEN"},
    ),
    "an account with another uid": (
        {"settings": {"gpulab_users": {"alice": {"gpus": "all", "uid": 1500}}}},
        {"UID_DIFFERS"},
    ),
    "a GPU of another host": ({"settings": {"gpulab_users": {"alice": {"gpus": [0, 7]}}}}, {"GPU_UNKNOWN"}),
    "enforced before the driver knows": (
        {
            "files": {
                "/etc/gpulab/shares.json": '{"openers": {"alice": [1000]}}',
                "/proc/driver/nvidia/params": "ModifyDeviceFiles: 1\n",
            }
        },
        {"GPU_SHARES_PENDING"},
    ),
    "enforced, with a GPU of nobody": (
        {
            "files": {
                "/etc/gpulab/shares.json": '{"openers": {"alice": [1000]}}',
                "/proc/driver/nvidia/params": "ModifyDeviceFiles: 0\n",
            },
            "nodes": {"/dev/nvidia1": {"mode": 0o600}},
        },
        set(),
    ),
    "no uvm node": (
        {"files": {"/dev/nvidia-uvm": None}},
        {"UVM_MISSING", "PROOF_NODE_MISSING"},
    ),
    "uvm node of nobody": (
        {"nodes": {"/dev/nvidia-uvm": {"device": (510, 0)}}},
        {"UVM_NODE_STALE"},
    ),
    "no nodes": (
        {"files": {"/dev/nvidia0": None, "/dev/nvidia1": None}},
        {"GPU_NODES_MISSING", "PROOF_NODE_MISSING"},
    ),
    "node closed": ({"nodes": {"/dev/nvidia1": {"mode": 0o660}}}, {"GPU_NODES_RESTRICTED"}),
    "node opened by an access list": ({"nodes": {"/dev/nvidia1": {"mode": 0o660, "acl": True}}}, set()),
    "fabric manager": ({"packages": {"nvidia-fabricmanager-550": "550.2-1"}}, {"FABRIC_MANAGER_MISMATCH"}),
    "xid 79": (xid(79), {"XID_HARDWARE"}),
    "xid 31": (xid(31), {"XID_PROGRAM"}),
    "xid 8": (xid(8), {"XID_OTHER"}),
    # toolkit
    "nvidia-ctk deleted": ({"files": {"/usr/bin/nvidia-ctk": None}}, {"TOOLKIT_DAMAGED"}),
    "hook deleted": ({"files": {"/usr/bin/nvidia-cdi-hook": None}}, {"TOOLKIT_DAMAGED", "PROOF_HOOK_MISSING"}),
    "no toolkit": ({"packages": {"nvidia-container-toolkit-base": None}}, {"TOOLKIT_MISSING"}),
    "two toolkits": ({"packages": {"libnvidia-container1": "1.19.1-1"}}, {"TOOLKIT_VERSIONS_MIXED"}),
    "legacy hook": ({"packages": {"nvidia-container-toolkit": "1.20.0-1"}}, {"TOOLKIT_LEGACY_HOOK"}),
    "refused toolkit": ({"packages": {"nvidia-container-toolkit-base": "1.18.2-1"}}, {"TOOLKIT_VERSION_REFUSED"}),
    "no-cgroups": (
        {"files": {"/etc/nvidia-container-runtime/config.toml": "[nvidia-container-cli]\nno-cgroups = true\n"}},
        {"TOOLKIT_NO_CGROUPS"},
    ),
    "legacy runtime": (
        {"files": {"/etc/docker/daemon.json": '{"default-runtime": "nvidia"}'}},
        {"LEGACY_RUNTIME_DEFAULT"},
    ),
    "no spec": ({"files": {SPEC: None}}, {"PROOF_SPEC_MISSING"}),
    "cut-off spec": ({"files": {SPEC: '{"kind": "nvidia.com/gpu", "devi'}}, {"CDI_SPEC_UNREADABLE"}),
    "empty spec": ({"files": {SPEC: '{"kind": "nvidia.com/gpu", "devices": []}'}}, {"CDI_SPEC_UNREADABLE"}),
    "stale spec": (
        {"files": {SPEC: spec_with(mounts=[{"hostPath": "/usr/lib/x86_64-linux-gnu/libcuda.so.535.1"}])}},
        {"PROOF_SPEC_STALE"},
    ),
    "hook gone": ({"files": {SPEC: spec_with(hooks=[{"path": "/usr/bin/gone"}])}}, {"PROOF_HOOK_MISSING"}),
    "root's spec names old files": (
        {"files": {"/etc/cdi/nvidia.yaml": SYSTEM_SPEC.format("libcuda.so.535.1", 511)}, **ROOTFUL},
        {"CDI_SYSTEM_SPEC_STALE", "ROOTFUL_ENGINE"},
    ),
    "root's spec has another number": (
        {"files": {"/etc/cdi/nvidia.yaml": SYSTEM_SPEC.format("libcuda.so.550.1", 510)}, **ROOTFUL},
        {"CDI_SYSTEM_SPEC_STALE", "ROOTFUL_ENGINE"},
    ),
    "root's spec fits": (
        {"files": {"/etc/cdi/nvidia.yaml": SYSTEM_SPEC.format("libcuda.so.550.1", 511)}, **ROOTFUL},
        {"ROOTFUL_ENGINE"},
    ),
    "second spec": (
        {"files": {"/var/lib/gpulab/cdi/alice/mine.json": spec_with()}},
        {"CDI_SPEC_CONFLICT"},
    ),
    "second spec, YAML": (
        {"files": {"/var/lib/gpulab/cdi/alice/old.yaml": 'kind: nvidia.com/gpu\ndevices:\n    - name: "0"\n'}},
        {"CDI_SPEC_CONFLICT"},
    ),
    # the inventory
    "nobody": ({"settings": {"gpulab_users": {}}}, {"USERS_NONE"}),
}


def codes(result: dict[str, Any]) -> set[str]:
    return {found["code"] for found in result["findings"]}


def test_healthy_host_gives_nothing(make_host: Any) -> None:
    result = examine(
        make_host(settings={**ALL, "gpulab_gpus_expected": 2}, controller_time=time.time()), CHECKS, "full"
    )
    assert result["findings"] == []
    assert result["unknown"] == []
    assert result["verdict"] == "pass"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, set()),
        ({"gpulab_gpus_expected": 0}, set()),
        (ALL, set()),
        ({"gpulab_gpus_expected": 2}, {"PROOF_GPU_COUNT"}),
    ],
)
@pytest.mark.parametrize("scope", ["preflight", "full"])
def test_bare_host_without_gpu(make_host: Any, settings: Any, expected: set[str], scope: str) -> None:
    gone = dict.fromkeys(_gpu_files() | _engine_files())
    packages = {"docker-ce": None, "nvidia-container-toolkit-base": None, "libnvidia-compute-550": None}
    host = make_host(files=gone, packages=packages, commands={"nvidia-smi": None}, settings=settings)
    result = examine(host, CHECKS, scope)
    assert codes(result) == expected
    assert result["unknown"] == []


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_named_and_nothing_else(make_host: Any, name: str) -> None:
    changes, expected = FAULTS[name]
    result = examine(make_host(**changes), CHECKS, "full")
    assert codes(result) == expected
    assert result["unknown"] == []


def test_every_code_of_a_check_has_a_case() -> None:
    seen = {code for _, expected in FAULTS.values() for code in expected}
    elsewhere = {
        code for check in CHECKS if check.name in ("settings", "repositories") for code in check.codes
    }  # tests of their own
    here = {"SYSTEMD_MISSING", "APT_BUSY"}  # below
    by_number = set(CODES.values())  # one mapping for all of them
    assert {code for check in CHECKS for code in check.codes} - seen - elsewhere - here - by_number == set()


def test_checks_yield_only_codes_they_declare(make_host: Any, tmp_path: Any) -> None:
    declared = {code for check in CHECKS for code in check.codes}
    assert {code for _, expected in FAULTS.values() for code in expected} <= declared
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def test_systemd_missing(make_host: Any) -> None:
    result = examine(make_host(files={"/run/systemd/system/.keep": None}), CHECKS, "preflight")
    assert codes(result) == {"SYSTEMD_MISSING"}


def test_lock_is_found_in_the_kernels_table(make_host: Any) -> None:
    host = make_host(
        files={"/var/lib/dpkg/lock-frontend": "", "/var/lib/dpkg/updates/0001": "", "/proc/4711/comm": "apt-get\n"}
    )
    major, minor, number = host.node("/var/lib/dpkg/lock-frontend").inode
    host.path("/proc/locks").write_text(f"1: POSIX  ADVISORY  WRITE 4711 {major:02x}:{minor:02x}:{number} 0 EOF\n")
    result = examine(host, CHECKS, "preflight")
    assert codes(result) == {"APT_BUSY"}  # half-way is how dpkg's journal looks while it works
    assert "apt-get" in result["findings"][0]["evidence"]


@pytest.mark.parametrize(
    ("closed", "uid", "check"),
    [
        ({"/home/alice/.config/systemd/user/docker.service"}, 1001, "running"),
        ({DAEMON}, 1001, "data_roots"),
        ({"/proc/self/mountinfo"}, 0, "cgroups"),
        ({"/etc/apt/sources.list"}, 1001, "source_conflicts"),
    ],
)
def test_what_cannot_be_read_is_unknown_and_no_pass(make_host: Any, closed: set[str], uid: int, check: str) -> None:
    result = examine(make_host(closed=closed, uid=uid, users=["alice"]), CHECKS, "full")
    assert check in {name for unknown in result["unknown"] for name in unknown["checks"]}
    assert result["verdict"] == "unknown"


def test_kernel_log_that_may_not_be_read_is_unknown(make_host: Any) -> None:
    commands = {
        "journalctl": Result(1, "", "No journal files were opened due to insufficient permissions."),
        "dmesg": Result(1, "", "dmesg: read kernel buffer failed: Operation not permitted"),
    }
    result = examine(make_host(commands=commands), CHECKS, "full")
    assert [unknown["checks"] for unknown in result["unknown"]] == [["kernel_log"]]


def test_a_check_that_breaks_is_unknown_and_hides_nothing(make_host: Any) -> None:
    def broken(host: Any) -> Any:
        raise ZeroDivisionError("division by zero")
        yield

    bad = CHECKS[0]._replace(name="bad", look=broken)
    host = make_host(files={"/proc/sys/user/max_user_namespaces": "0\n"})
    result = examine(host, [bad, *CHECKS], "full")
    assert result["unknown"] == [{"reason": "ZeroDivisionError: division by zero", "checks": ["bad"]}]
    assert codes(result) == {"USERNS_DISABLED"}
    assert result["verdict"] == "fail"


def test_preflight_leaves_out_what_does_not_stop_an_installation(make_host: Any) -> None:
    host = make_host(files={"/var/lib/systemd/linger/alice": None, "/dev/nvidia-uvm": None, SPEC: None})
    result = examine(host, CHECKS, "preflight")
    assert (result["findings"], result["unknown"]) == ([], [])


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        ("1.20.0-1", {"TOOLKIT_DAMAGED"}),
        (None, set()),  # the role installs it
        ("1.18.2-1", set()),  # the role replaces it
        (("1.20.0-1", "install reinstreq half-installed"), set()),  # the role completes it
    ],
)
def test_deleted_program_stops_an_installation_that_would_not_bring_it(
    make_host: Any, package: Any, expected: set[str]
) -> None:
    packages = {"nvidia-container-toolkit-base": package}
    host = make_host(files={"/usr/bin/nvidia-ctk": None}, packages=packages)
    assert codes(examine(host, CHECKS, "preflight")) & {"TOOLKIT_DAMAGED"} == expected


def test_kept_rootful_engine_is_no_finding(make_host: Any) -> None:
    changes, _ = FAULTS["rootful engine"]
    result = examine(make_host(**changes, settings={**ALL, "rootless_docker_rootful": "keep"}), CHECKS, "full")
    assert result["findings"] == []


def test_rootful_engine_names_its_containers_and_data(make_host: Any) -> None:
    changes, _ = FAULTS["rootful engine"]
    info = {"ServerVersion": "26.1.5", "DockerRootDir": "/srv/docker", "ContainersRunning": 1, "Containers": 3}
    sockets = {"/run/docker.sock": {"/info": info, "/containers/json": [{"Names": ["/web"]}]}}
    found = examine(make_host(**changes, sockets=sockets), CHECKS, "preflight")["findings"][0]
    assert "1 of 3 containers run (web)" in found["evidence"]
    assert "/srv/docker" in found["remedy"]


@pytest.mark.parametrize(
    ("held", "settings", "found"),
    [
        ("install ok installed", "", True),
        ("hold ok installed", "", False),
        ("install ok installed", 'Unattended-Upgrade::Package-Blacklist:: "libnvidia";\n', False),
        ("install ok installed", 'Unattended-Upgrade::Package-Blacklist:: "(";\n', True),
        ("install ok installed", None, False),
    ],
)
def test_driver_upgrades(make_host: Any, held: str, settings: str | None, found: bool) -> None:
    dump = "" if settings is None else f'APT::Periodic::Unattended-Upgrade "1";\n{settings}'
    packages = {"unattended-upgrades": "2.8", "libnvidia-compute-550": ("550.1-0ubuntu1", held)}
    result = examine(make_host(packages=packages, commands={"apt-config dump": Result(0, dump, "")}), CHECKS, "full")
    assert ("DRIVER_UPGRADES_UNATTENDED" in codes(result)) is found


def test_broken_driver_stops_only_who_wants_gpus(make_host: Any) -> None:
    changes, _ = FAULTS["no driver"]
    without = make_host(**changes, settings={"gpulab_users": {"alice": {}}, "gpulab_gpus_expected": 0})
    assert codes(examine(without, CHECKS, "preflight")) == set()


def test_rewritten_context_is_nobodys_fault(make_host: Any) -> None:
    files = {"/home/alice/.docker/config.json": None, "/home/alice/.bashrc": "export DOCKER_HOST=unix:///x\n"}
    assert codes(examine(make_host(files=files), CHECKS, "full")) == set()


def _gpu_files() -> set[str]:
    return {
        "/proc/driver/nvidia/version",
        "/sys/bus/pci/devices/0000:07:00.0/vendor",
        "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.550.1",
        "/dev/nvidia0",
        "/dev/nvidia1",
        "/dev/nvidiactl",
        "/dev/nvidia-uvm",
        SPEC,
        "/etc/gpulab/cdi.json",
    }


def _engine_files() -> set[str]:
    return {"/home/alice/.config/systemd/user/docker.service", DAEMON, "/home/alice/.docker/config.json"}
