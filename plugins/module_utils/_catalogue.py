# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Everything this collection can find wrong with a host: one entry a condition.

This is data. The detector (host_health_info), the GPU modules and the documentation
(docs/findings.md is generated from it) all read it; nothing else describes a fault.

Each entry:
  layer     inventory | host | packages | engine | users | driver | toolkit | proof | stacks
  severity  error (stops an installation or a GPU), warning (will hurt later), info
  title     one line, what is wrong, without values
  cause     why it happens, one or two sentences
  remedy    what to do: a command or a setting; may name {placeholders} that evidence data fills
"""

from __future__ import annotations

from typing import Any

CATALOGUE: dict[str, dict[str, Any]] = {
    # --- inventory -----------------------------------------------------------------------------
    "GPU_UNKNOWN": {
        "layer": "inventory",
        "severity": "error",
        "title": "gpulab_users names a GPU that this host does not have",
        "cause": "The name is mistyped, belongs to another host, or the GPU has fallen off the bus. GPUs are known by UUID or index, MIG instances by theirs.",
        "remedy": "Correct gpulab_users.{user}.gpus; this host has {known}.",
    },
    # --- host ----------------------------------------------------------------------------------
    # --- packages ------------------------------------------------------------------------------
    "APT_SOURCE_CONFLICT": {
        "layer": "packages",
        "severity": "error",
        "title": "Another apt source names the same repository with another key",
        "cause": "apt refuses every command once two sources give the same address and suite different Signed-By values ('Conflicting values set for option Signed-By').",
        "remedy": "Remove or disable that entry in {path} (its packages stay installed), then run again; this collection writes {own}.",
    },
    "KEY_UNREACHABLE": {
        "layer": "packages",
        "severity": "error",
        "title": "The signing key of a package repository cannot be fetched",
        "cause": "The host cannot reach the key's address: no route, a proxy that is not configured, a name that does not resolve, or a mirror without the key.",
        "remedy": "Make {url} reachable from the host, or set the role's repository and key addresses to a mirror that is.",
    },
    "KEY_INVALID": {
        "layer": "packages",
        "severity": "error",
        "title": "What was fetched as a signing key is not an OpenPGP public key",
        "cause": "The address answers with something else, often the HTML page of a proxy or of a portal.",
        "remedy": "Open {url} and correct the address, or the proxy in between.",
    },
    "KEY_FINGERPRINT_MISMATCH": {
        "layer": "packages",
        "severity": "error",
        "title": "The repository's signing key is not the expected one",
        "cause": "The mirror signs with a key of its own, the vendor has changed its key, or somebody is in between. Nothing was written.",
        "remedy": "Compare the fingerprint with the publisher's over another channel; only then set the role's key fingerprint variable to it.",
    },
    "PACKAGE_UNAVAILABLE": {
        "layer": "packages",
        "severity": "error",
        "title": "A package is not offered in the wanted version",
        "cause": "The mirror does not carry that version for this distribution, or it could not be reached and apt went on with what it had (apt-get update exits 0 then).",
        "remedy": "Choose a version that is offered, or make the mirror reachable and complete; 'apt-cache policy {package}' shows what the host sees.",
    },
    "PACKAGE_INSTALL_FAILED": {
        "layer": "packages",
        "severity": "error",
        "title": "apt could not install the packages",
        "cause": "apt or dpkg stopped with the message above; packages that were not reached are unchanged.",
        "remedy": "Follow apt's message (a full disk, a mirror in the middle of a sync and a broken other package are common), then run again.",
    },
    "PACKAGE_HELD": {
        "layer": "packages",
        "severity": "error",
        "title": "A package that has to change is on hold",
        "cause": "Somebody has pinned it with apt-mark hold; a hold is respected.",
        "remedy": "apt-mark unhold {package}, or set the version variable to the version that is installed.",
    },
    "PACKAGE_DOWNGRADE": {
        "layer": "packages",
        "severity": "error",
        "title": "The installed package is newer than the wanted version",
        "cause": "Going back to an older version can hide images and containers (newer engines keep them in another store), so it is never done unasked.",
        "remedy": "Set the version variable to the installed version (or ''), or allow the downgrade: rootless_docker_allow_downgrade: true.",
    },
    "PACKAGE_CONFLICT": {
        "layer": "packages",
        "severity": "error",
        "title": "Packages of another origin are in the way and in use",
        "cause": "The wanted packages replace these, and the engine that is kept on this host runs from them.",
        "remedy": "Set rootless_docker_source to the origin that is installed, or remove the kept engine first.",
    },
    "APT_LOCKED": {
        "layer": "packages",
        "severity": "error",
        "title": "Another program has been holding the package manager's lock",
        "cause": "Usually unattended-upgrades, a second apt, or a package script that waits for an answer.",
        "remedy": "Wait for it, or look at it with 'fuser -v /var/lib/dpkg/lock-frontend /var/lib/apt/lists/lock', then run again.",
    },
    # --- engine --------------------------------------------------------------------------------
    "ROOTFUL_ENGINE": {
        "layer": "engine",
        "severity": "error",
        "title": "A root-owned Docker engine is in use on this host",
        "cause": "A rootful engine hands root on the host to everyone who can reach its socket, and this run would end it; nothing has been changed.",
        "remedy": "Keep it beside the users' own engines (rootless_docker_rootful: keep), or move its containers and turn it off: systemctl disable --now docker.socket docker.service. Its data stays in {data_root}.",
    },
    "KUBERNETES_NODE": {
        "layer": "engine",
        "severity": "error",
        "title": "This host is a Kubernetes node whose containerd the engine's packages would replace",
        "cause": "The Docker packages bring their own containerd and take the place of the one that kubelet uses.",
        "remedy": "Take the host out of gpu_hosts, or drain and remove it from its cluster first.",
    },
    "ENGINE_MISSING": {
        "layer": "engine",
        "severity": "error",
        "title": "The rootless engine's programs are not installed",
        "cause": "The packages were not installed, or removed again.",
        "remedy": "Run the rootless_docker role (tag engine), which installs them.",
    },
    "ENGINE_TOO_OLD": {
        "layer": "engine",
        "severity": "error",
        "title": "The Docker engine is older than the oldest that works",
        "cause": "CDI devices in a rootless engine need Docker 26.1.",
        "remedy": "Use the vendor's packages (rootless_docker_source: vendor) or set rootless_docker_engine_version to 28.2 or newer.",
    },
    "ENGINE_BELOW_RECOMMENDED": {
        "layer": "engine",
        "severity": "info",
        "title": "The Docker engine works, but a newer one is recommended",
        "cause": "Before 28.2 a container with a GPU and a restart policy does not come back by itself after a restart of the engine.",
        "remedy": "Set rootless_docker_engine_version to 28.2 or newer when it suits.",
    },
    "ENGINE_START_FAILED": {
        "layer": "engine",
        "severity": "error",
        "title": "A user's engine does not start",
        "cause": "The engine's own last words are above; a full data root, a data root on a network file system and missing subordinate ids are common.",
        "remedy": "As {user}: journalctl --user -u docker.service; correct what it names, then run again.",
    },
    "ENGINE_UNRESPONSIVE": {
        "layer": "engine",
        "severity": "error",
        "title": "A user's engine is running but does not answer",
        "cause": "The process is there and its socket gives no answer: it hangs, or its socket was removed under it.",
        "remedy": "As {user}: systemctl --user restart docker.service (this ends the containers), then run again.",
    },
    "ENGINE_RESTART_PENDING": {
        "layer": "engine",
        "severity": "warning",
        "title": "A user's engine runs with older settings or programs than are installed",
        "cause": "Containers are running, and an engine is never restarted under them.",
        "remedy": "When they may stop, as {user}: systemctl --user restart docker.service; or run again when no container is running.",
    },
    "DAEMON_JSON_INVALID": {
        "layer": "engine",
        "severity": "error",
        "title": "A user's daemon.json is not valid JSON",
        "cause": "The file was edited by hand; it was left as it is.",
        "remedy": "Correct the place named above (or move the file away), then run again.",
    },
    "DAEMON_JSON_REJECTED": {
        "layer": "engine",
        "severity": "error",
        "title": "dockerd rejects the settings for a user's daemon.json",
        "cause": "An unknown option or a value of the wrong type; the file was left as it is.",
        "remedy": "Correct rootless_docker_daemon or gpulab_users.{user}.daemon (or the user's own file), then run again.",
    },
    "DAEMON_JSON_TYPO": {
        "layer": "engine",
        "severity": "error",
        "title": "A daemon.json option is spelled like its command line flag and would be ignored",
        "cause": "dockerd accepts the singular spelling in its check and then does not use it.",
        "remedy": "Write {right} instead of {wrong}.",
    },
    "DATA_ROOT_NETWORK_FS": {
        "layer": "engine",
        "severity": "error",
        "title": "The engine's data root would lie on a network file system",
        "cause": "Rootless layers need subordinate ids and overlay mounts, which NFS and its like do not offer.",
        "remedy": "Give the user a local data root: gpulab_users.{user}.daemon: {{data-root: /some/local/disk/{user}}}, a folder that the user owns.",
    },
    "CLI_CONFIG_INVALID": {
        "layer": "engine",
        "severity": "error",
        "title": "A user's Docker CLI configuration is not valid JSON",
        "cause": "The file was edited by hand; it was left as it is.",
        "remedy": "Correct the place named above (or move the file away), then run again.",
    },
    # --- users ---------------------------------------------------------------------------------
    "USER_MISSING": {
        "layer": "users",
        "severity": "error",
        "title": "A user named in the inventory does not exist on the host",
        "cause": "The name is misspelled, the directory service does not answer, or the account was never made.",
        "remedy": "Make the account, correct the name, or have it made: gpulab_users.{user}.create: true.",
    },
    "USER_IS_ROOT": {
        "layer": "users",
        "severity": "error",
        "title": "A rootless engine cannot belong to root",
        "cause": "The point of it is that neither the engine nor a container has root on the host.",
        "remedy": "Name an ordinary user in gpulab_users.",
    },
    "HOME_UNUSABLE": {
        "layer": "users",
        "severity": "error",
        "title": "A user's home folder is missing or belongs to somebody else",
        "cause": "The engine keeps its unit, settings and (by default) data there.",
        "remedy": "Create {home} with owner {user}, or give the account another home.",
    },
    "USER_MANAGER_DOWN": {
        "layer": "users",
        "severity": "error",
        "title": "A user's systemd manager does not run",
        "cause": "Without it nothing of the user's runs without a login; lingering was switched on but user@{uid}.service is not up.",
        "remedy": "Look at 'systemctl status user@{uid}.service' (libpam-systemd and dbus-user-session must be installed), then run again.",
    },
    "SUBID_MISSING": {
        "layer": "users",
        "severity": "error",
        "title": "A user has too few subordinate ids for a rootless engine",
        "cause": "/etc/subuid and /etc/subgid must give the user at least 65536 ids each.",
        "remedy": "Run the rootless_docker role (tag engine), which allots them without overlap.",
    },
    "SUBID_OVERLAP": {
        "layer": "users",
        "severity": "error",
        "title": "Two users share subordinate ids",
        "cause": "With shared ids one user's containers can read and write the other's files. Ranges in use are never moved by this collection.",
        "remedy": "Give one of them another range by hand in {path} while that user has no container; then hand its engine's data over or start with an empty data root.",
    },
    "SUBID_EXHAUSTED": {
        "layer": "users",
        "severity": "error",
        "title": "No free range of subordinate ids is left",
        "cause": "Existing ranges and accounts leave no gap of that size between 100000 and 4294967294.",
        "remedy": "Remove ranges of users that are gone from /etc/subuid and /etc/subgid.",
    },
    "SUBID_COVERS_ACCOUNT": {
        "layer": "users",
        "severity": "warning",
        "title": "A user's subordinate ids contain the id of a real account",
        "cause": "A container of that user can act on files as the account; ranges in use are never moved by this collection.",
        "remedy": "Give {user} another range by hand while it has no container, or the account another id.",
    },
    "SUBID_FILE_INVALID": {
        "layer": "users",
        "severity": "error",
        "title": "A file of subordinate ids has a line that cannot be read",
        "cause": "Each line must be name:start:count; the file was left as it is.",
        "remedy": "Correct that line in {path}.",
    },
    # --- driver --------------------------------------------------------------------------------
    "NVML_LIBRARY_MISMATCH": {
        "layer": "driver",
        "severity": "error",
        "title": "The NVIDIA library is newer or older than the loaded kernel module",
        "cause": "The driver packages were upgraded (often by unattended-upgrades) while the old kernel module stayed loaded; NVML answers with code 18.",
        "remedy": "Reboot the host, or unload and reload the nvidia modules with no process using the GPUs; then hold the nvidia packages.",
    },
    "DRIVER_NOT_LOADED": {
        "layer": "driver",
        "severity": "error",
        "title": "The NVIDIA kernel driver is not loaded",
        "cause": "The driver is not installed, was not built for the running kernel, is kept out by Secure Boot or a blacklist, or failed to start.",
        "remedy": "Look at 'dkms status', 'modprobe nvidia' and 'dmesg | grep -i nvrm'; then 'systemctl start gpulab-cdi' or run again.",
    },
    "NVML_LIBRARY_MISSING": {
        "layer": "driver",
        "severity": "error",
        "title": "The driver's management library is not on this host",
        "cause": "libnvidia-ml.so.1 was not found: only a part of the driver's packages is installed.",
        "remedy": "Install the driver's user-space libraries in the version of the loaded kernel module (Ubuntu: libnvidia-compute-<branch>).",
    },
    "GPU_NODES_MISSING": {
        "layer": "driver",
        "severity": "error",
        "title": "The driver is there, but no GPU can be opened",
        "cause": "No device node /dev/nvidia0, /dev/nvidia1 ... exists, or the driver counts no GPU.",
        "remedy": "Run 'nvidia-smi' as root, which makes the nodes; if it shows no GPU, look at 'lspci -d 10de:' and 'dmesg | grep -i nvrm'.",
    },
    "UVM_MISSING": {
        "layer": "driver",
        "severity": "error",
        "title": "/dev/nvidia-uvm is missing",
        "cause": "The module nvidia-uvm is not loaded, or its node was not made: nvidia-smi works without it, CUDA does not (cuInit answers 999).",
        "remedy": "Run 'nvidia-modprobe -c0 -u', or 'modprobe nvidia-uvm' and 'nvidia-ctk system create-device-nodes --control-devices'; then 'systemctl start gpulab-cdi'.",
    },
    "GPU_NODES_RESTRICTED": {
        "layer": "driver",
        "severity": "warning",
        "title": "Device nodes of the GPUs are not open to everyone",
        "cause": "In a rootless container a node is a bind mount owned by nobody: without read and write for others it cannot be opened, and groups do not help.",
        "remedy": "Set NVreg_DeviceFileMode=0666 for the nvidia module, or give each user an access list entry on the nodes.",
    },
    # --- toolkit -------------------------------------------------------------------------------
    "TOOLKIT_MISSING": {
        "layer": "toolkit",
        "severity": "error",
        "title": "The NVIDIA container toolkit is not installed",
        "cause": "There is no nvidia-ctk, which describes the GPUs for the engines.",
        "remedy": "Install nvidia-container-toolkit-base (role gpulab.fleet.nvidia_container_toolkit does).",
    },
    "TOOLKIT_VERSION_REFUSED": {
        "layer": "toolkit",
        "severity": "error",
        "title": "This version of the NVIDIA container toolkit is refused",
        "cause": "Versions below {floor} have known holes through which a container takes over its host (CVE-2026-24260).",
        "remedy": "Set nvidia_container_toolkit_version to {floor} or newer.",
    },
    "TOOLKIT_LEGACY_HOOK": {
        "layer": "toolkit",
        "severity": "warning",
        "title": "The toolkit's legacy hook is installed",
        "cause": "With it an engine that cannot resolve a GPU falls back to the hook silently; in a rootless engine that then fails with a message about bpf or cgroups which hides the cause.",
        "remedy": "apt-get remove nvidia-container-toolkit libnvidia-container-tools libnvidia-container1, unless a rootful engine needs them.",
    },
    "CDI_GENERATION_FAILED": {
        "layer": "toolkit",
        "severity": "error",
        "title": "nvidia-ctk could not describe the GPUs",
        "cause": "The toolkit stopped with the message above. Specs that were there before are kept.",
        "remedy": "Look at 'nvidia-smi' and 'nvidia-ctk cdi generate' as root; when they work, 'systemctl start gpulab-cdi'.",
    },
    "CDI_SPEC_INCOMPLETE": {
        "layer": "toolkit",
        "severity": "error",
        "title": "The description of the GPUs has holes",
        "cause": "nvidia-ctk ended well but left out, or named without its being there, what a CUDA program in a container needs: usually a driver package is missing or half upgraded. The spec was not installed.",
        "remedy": "Repair the driver's packages (dpkg --configure -a, reinstall the libraries), then 'systemctl start gpulab-cdi'.",
    },
    "CDI_SPEC_CONFLICT": {
        "layer": "toolkit",
        "severity": "error",
        "title": "Another CDI spec names the same GPUs to the same engine",
        "cause": "Two specs with the same device names make each of them unresolvable, or the later one wins and goes stale.",
        "remedy": "Remove {path}, or take its folder out of cdi-spec-dirs in the user's daemon.json.",
    },
    "CDI_SETTINGS_INVALID": {
        "layer": "toolkit",
        "severity": "error",
        "title": "The settings of the CDI specs cannot be used",
        "cause": "/etc/gpulab/cdi.json is not of the form {{users: {{NAME: all or a list of GPUs}}}}, or a name in it is no user name.",
        "remedy": "Correct gpulab_users and run the toolkit stage again, which writes that file.",
    },
    # --- proof ---------------------------------------------------------------------------------
    # --- stacks --------------------------------------------------------------------------------
}
