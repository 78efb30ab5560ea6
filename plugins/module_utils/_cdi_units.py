# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The systemd units that keep the CDI specs true without Ansible."""

from __future__ import annotations

from ansible_collections.gpulab.fleet.plugins.module_utils._cdi import PROGRAM

# No RemainAfterExit: the path unit must be able to start it again. Exit code 3 is a finding about the driver,
# which is in the journal and in the host's findings; it must not make the boot "degraded" or hold up logins.
# It is ordered after what sets up the GPUs, and the users' managers after it, so that their engines find their
# specs; nvidia-fabricmanager is left out because it waits for the network.
SERVICE = f"""\
# Written by gpulab.fleet (role nvidia_container_toolkit).
[Unit]
Description=Describe the GPUs to the users' rootless engines (CDI)
After=systemd-modules-load.service nvidia-persistenced.service nvidia-mig-manager.service
ConditionPathExists={PROGRAM}
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=/usr/bin/python3 {PROGRAM} generate --wait 20 --revive
SuccessExitStatus=3
TimeoutStartSec=600

[Install]
WantedBy=multi-user.target
"""

# ld.so.cache is written last by every installation of libraries, modules.dep by every one of kernel modules.
# The nodes in /dev are not watched: each program that closes one would start the service, nvidia-ctk as well.
PATH = """\
# Written by gpulab.fleet (role nvidia_container_toolkit).
[Unit]
Description=Watch for a new NVIDIA driver or container toolkit

[Path]
PathChanged=/lib/modules/%v/modules.dep
PathChanged=/etc/ld.so.cache
PathChanged=/usr/bin/nvidia-ctk
Unit=gpulab-cdi.service

[Install]
WantedBy=multi-user.target
"""

# Its log level keeps "Starting" and "Finished" out of the journal once a minute.
POLL_SERVICE = f"""\
# Written by gpulab.fleet (role nvidia_container_toolkit).
[Unit]
Description=Look for changed MIG instances and a driver loaded late
After=gpulab-cdi.service
ConditionPathExists={PROGRAM}
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=/usr/bin/python3 {PROGRAM} generate --if-changed --revive
SuccessExitStatus=3
TimeoutStartSec=600
LogLevelMax=notice
"""

POLL_TIMER = """\
# Written by gpulab.fleet (role nvidia_container_toolkit).
[Unit]
Description=Look for what cannot be watched: changed MIG instances and a driver loaded late

[Timer]
OnActiveSec=60
OnUnitActiveSec=60
AccuracySec=10
Unit=gpulab-cdi-poll.service

[Install]
WantedBy=timers.target
"""

USER_MANAGER = """\
# Written by gpulab.fleet (role nvidia_container_toolkit).
# A user's engine starts with its user manager and must find its CDI spec then.
[Unit]
After=gpulab-cdi.service
"""

# For every user's docker.service: an engine before 28.2 never brings back a container with a GPU by itself.
USER_ENGINE = f"""\
# Written by gpulab.fleet (role nvidia_container_toolkit).
[Service]
ExecStartPost=-/usr/bin/python3 {PROGRAM} revive
"""

SYSTEM_UNITS = {
    "/etc/systemd/system/gpulab-cdi.service": SERVICE,
    "/etc/systemd/system/gpulab-cdi.path": PATH,
    "/etc/systemd/system/gpulab-cdi-poll.service": POLL_SERVICE,
    "/etc/systemd/system/gpulab-cdi-poll.timer": POLL_TIMER,
    "/etc/systemd/system/user@.service.d/gpulab.conf": USER_MANAGER,
}
USER_UNITS = {"/etc/systemd/user/docker.service.d/gpulab-revive.conf": USER_ENGINE}

ENABLED = ("gpulab-cdi.service", "gpulab-cdi.path", "gpulab-cdi-poll.timer")
RUNNING = ("gpulab-cdi.path", "gpulab-cdi-poll.timer")

# The toolkit's own: they write /var/run/cdi, which only a rootful engine reads.
VENDOR_REFRESH = ("nvidia-cdi-refresh.path", "nvidia-cdi-refresh.service")
