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

One text, in the form of an INI file, because it travels with every module: Ansible parses each module's Python anew in
every run, on the controller and on the host, and a text costs nothing there. It is read when a fault is found.
"""

from __future__ import annotations

import functools

_ENTRIES = """
# --- inventory ------------------------------------------------------------------------------------

[GPU_UNKNOWN]
layer = inventory
severity = error
title = gpulab_users names a GPU that this host does not have
cause = The name is mistyped, belongs to another host, or the GPU has fallen off the bus. GPUs are known by UUID
  or index, MIG instances by theirs.
remedy = Correct gpulab_users.{user}.gpus; this host has {known}.

[SETTING_INVALID]
layer = inventory
severity = error
title = A variable does not have the form that it must have
cause = {setting} must be {wanted}.
remedy = Correct {setting} in the inventory (group_vars or host_vars); a value given with -e wins over both.

[SETTING_UNKNOWN]
layer = inventory
severity = error
title = A user or stack has a setting that does not exist
cause = It is mistyped or belongs to another place; it would be ignored silently.
remedy = Correct or remove {setting}: {hint}

[SETTING_MISSPELLED]
layer = inventory
severity = error
title = A variable is named almost like one of this collection's and has no effect
cause = A slip of the pen; Ansible accepts any name.
remedy = Rename {setting} to {known}; a variable of your own needs a name that is less like it.

[DAEMON_KEY_OWNED]
layer = inventory
severity = error
title = A daemon.json option is set that this collection sets itself
cause = {setting} would be overridden without a word, or take the user's engine out of reach: {why}.
remedy = Remove {setting} from the inventory; which GPUs a user has is set by gpulab_users.NAME.gpus.

[USERS_NONE]
layer = inventory
severity = error
title = The inventory names no user for this host
cause = Every engine belongs to a user, so there is nothing to set up.
remedy = Name at least one in group_vars or host_vars: gpulab_users: {{alice: {{gpus: all}}}}

[STACK_USER_UNKNOWN]
layer = inventory
severity = error
title = A stack does not run as one of the users
cause = A stack's containers run in the engine of one user of gpulab_users; the users of this host are {known}.
remedy = Set {stack}.user to one of them, or add the user to gpulab_users.

[STACK_GPU_NOT_GIVEN]
layer = inventory
severity = error
title = A stack asks for a GPU that its user is not given
cause = A user's engine knows only the GPUs of gpulab_users.{user}.gpus.
remedy = Give gpulab_users.{user}.gpus what the stack needs, or ask for less in {stack}.gpus.

[STACK_PORT_CLASH]
layer = inventory
severity = error
title = Two stacks of a host want the same port
cause = Published ports belong to the host, whichever user's engine publishes them.
remedy = Give {setting} another number.

[GPUS_MORE_THAN_EXPECTED]
layer = inventory
severity = error
title = More GPUs are asked for than the host is expected to have
cause = {setting} and gpulab_gpus_expected contradict each other.
remedy = Correct whichever is wrong.

[DATA_ROOT_SHARED]
layer = inventory
severity = error
title = Two engines would keep their data in one place
cause = Two engines destroy each other's data in one folder, or in folders of which one lies in the other. A
  data-root in rootless_docker_daemon is every user's.
remedy = Give each user a folder of their own, such as {setting}: /scratch/NAME/docker.

[RESET_PURGE_UNKNOWN]
layer = inventory
severity = error
title = gpulab_reset_purge_data names somebody whom neither the inventory nor this host knows
cause = A slip of the pen would keep data that were meant to go. Nothing has been changed.
remedy = Correct gpulab_reset_purge_data; on this host are {known}, or write all.

# --- host -----------------------------------------------------------------------------------------

[OS_UNSUPPORTED]
layer = host
severity = error
title = The distribution or release is not supported
cause = Packages, repositories and defaults differ; supported are {supported}.
remedy = Install or upgrade to a supported release, or take the host out of gpu_hosts.

[ARCH_UNSUPPORTED]
layer = host
severity = error
title = The machine type is not supported
cause = Neither the vendors' packages nor the proof exist for it.
remedy = Take the host out of gpu_hosts.

[PLATFORM_UNTESTED]
layer = host
severity = warning
title = The release or machine type is newer or rarer than what was tested
cause = Tested are {supported}; this one probably works.
remedy = Try it on one host first (--limit), and read what the proof says.

[SYSTEMD_MISSING]
layer = host
severity = error
title = systemd does not run this host
cause = Users' engines are services of systemd's user managers; a plain container and WSL without systemd have
  none.
remedy = Boot the host with systemd (in WSL: systemd=true under [boot] in /etc/wsl.conf).

[SYSTEMD_TOO_OLD]
layer = host
severity = error
title = systemd is too old
cause = Controllers are delegated to users' managers reliably from systemd {oldest} on.
remedy = Upgrade the distribution.

[CGROUP_V1]
layer = host
severity = error
title = The host does not use cgroup v2 alone
cause = An old release, or systemd.unified_cgroup_hierarchy=0 on the kernel's command line; in version 1 nothing
  can be delegated to a user.
remedy = Remove that option from GRUB_CMDLINE_LINUX in /etc/default/grub (or set it to 1), then update-grub and
  reboot.

[REBOOT_NEEDED]
layer = host
severity = warning
title = The host waits for a reboot
cause = Packages were upgraded that are in force only after one: the kernel, the driver or a library.
remedy = Reboot it when nothing runs; or let the verb upgrade do so: gpulab_reboot_allowed: true. The machine that
  runs Ansible is never rebooted by it.

[CGROUP_CONTROLLERS_MISSING]
layer = host
severity = info
title = The kernel offers no controllers for some limits
cause = They are switched off on the kernel's command line (cgroup_disable), held by cgroup v1, or not handed to
  this container; limits that containers ask for are then ignored.
remedy = Look at /proc/cmdline and at the mounts of cgroup v1; nothing to do where no limits are wanted.

[CGROUP_NOT_DELEGATED]
layer = host
severity = warning
title = A user's manager may not use all controllers
cause = systemd delegates only memory and pids by itself, so CPU limits of rootless containers are ignored
  silently.
remedy = Run the rootless_docker role (tag engine), which delegates them; it takes effect when the user's manager
  starts next.

[USERNS_DISABLED]
layer = host
severity = error
title = Ordinary users may not make user namespaces
cause = A hardening guide's sysctl switches off what every rootless engine is built on.
remedy = echo '{sysctl}' > /etc/sysctl.d/99-rootless.conf; sysctl --system (and remove the line that says
  otherwise).

[USERNS_FEW]
layer = host
severity = warning
title = Users may make only a few user namespaces
cause = Every engine, build and sandboxed browser takes some; past the limit they fail with 'no space left on
  device'.
remedy = echo 'user.max_user_namespaces=28633' > /etc/sysctl.d/99-rootless.conf; sysctl --system

[USERNS_APPARMOR_RESTRICTED]
layer = host
severity = error
title = AppArmor keeps rootlesskit from making user namespaces
cause = Ubuntu 24.04 restricts them to programs whose profile allows it, and none covers rootlesskit.
remedy = Run the rootless_docker role (tag engine), which adds a profile.

[UIDMAP_NOT_PRIVILEGED]
layer = host
severity = error
title = newuidmap or newgidmap has lost its privilege
cause = A copy of the root file system without set-uid bits, or a hardening script; rootless engines cannot map
  ids without it.
remedy = apt-get install --reinstall uidmap

[DISK_FULL]
layer = host
severity = error
title = A file system that packages or images go to is full
cause = Images, build caches and checkpoints grow; an engine whose data root is full does not come back from a
  restart.
remedy = Free space (docker system df, docker builder prune, apt-get clean), or move the data root:
  gpulab_users.NAME.daemon: {{data-root: /larger/disk}}.

[DISK_LOW]
layer = host
severity = warning
title = A file system that packages or images go to is nearly full
cause = An image with CUDA and a framework takes 5 to 20 GB.
remedy = Free space before the next large image (docker system df shows what can go), or move the data root.

[JOURNAL_INVALID]
layer = host
severity = error
title = The record of what this collection changed on the host cannot be read
cause = Without it nothing could be taken back any more; a lost disk or a hand has left it incomplete.
remedy = Put journal.json back from a backup of the host. Where there is none, move it away: what was changed
  before then stays when reset.yml runs.

[CLOCK_OFF]
layer = host
severity = warning
title = The host's clock differs from the controller's
cause = No time service runs or it cannot reach its servers; repositories ('not valid yet', 'expired') and
  certificates are then refused.
remedy = timedatectl set-ntp true; timedatectl timesync-status shows whether it reaches a server.

# --- packages -------------------------------------------------------------------------------------

[APT_SOURCE_CONFLICT]
layer = packages
severity = error
title = Another apt source names the same repository with another key
cause = apt refuses every command once two sources give the same address and suite different Signed-By values
  ('Conflicting values set for option Signed-By').
remedy = Remove or disable that entry in {path} (its packages stay installed), then run again; this collection
  writes {own}.

[APT_SOURCE_TAKEN_OVER]
layer = packages
severity = warning
title = Another apt source names packages that this collection keeps a source for
cause = Old instructions or another tool wrote it; two sources of one repository with different keys stop apt
  altogether, and old addresses bring other versions.
remedy = Nothing to do: site.yml switches the entry off where it stands and keeps the file as it was in the host's
  journal.

[KEY_UNREACHABLE]
layer = packages
severity = error
title = The signing key of a package repository cannot be fetched
cause = The host cannot reach the key's address: no route, a proxy that is not configured, a name that does not
  resolve, or a mirror without the key.
remedy = Make {url} reachable from the host, or set the role's repository and key addresses to a mirror that is.

[KEY_INVALID]
layer = packages
severity = error
title = What was fetched as a signing key is not an OpenPGP public key
cause = The address answers with something else, often the HTML page of a proxy or of a portal.
remedy = Open {url} and correct the address, or the proxy in between.

[KEY_FINGERPRINT_MISMATCH]
layer = packages
severity = error
title = The repository's signing key is not the expected one
cause = The mirror signs with a key of its own, the vendor has changed its key, or somebody is in between. Nothing
  was written.
remedy = Compare the fingerprint with the publisher's over another channel; only then set the role's key
  fingerprint variable to it.

[PACKAGE_UNAVAILABLE]
layer = packages
severity = error
title = A package is not offered in the wanted version
cause = The mirror does not carry that version for this distribution, or it could not be reached and apt went on
  with what it had (apt-get update exits 0 then).
remedy = Choose a version that is offered, or make the mirror reachable and complete; 'apt-cache policy {package}'
  shows what the host sees.

[APT_INDEX_OLD]
layer = packages
severity = warning
title = What is the latest version was judged by an old index
cause = The package sources could not be asked, and apt went on with what it knew from before.
remedy = Make the source named above reachable, then run again; or name a version instead of latest.

[PACKAGE_TOO_OLD]
layer = packages
severity = error
title = A package is older than the oldest version that works
cause = The distribution's packages are often that old, or an old version is pinned.
remedy = Use the vendor's packages, or set the version variable to a newer version. A site that knows what it does
  names the version in gpulab_accept_versions.

[PACKAGE_INSTALL_FAILED]
layer = packages
severity = error
title = apt could not install the packages
cause = apt or dpkg stopped with the message above; packages that were not reached are unchanged.
remedy = Follow apt's message (a full disk, a mirror in the middle of a sync and a broken other package are
  common), then run again.

[PACKAGE_HELD]
layer = packages
severity = error
title = A package that has to change is on hold
cause = Somebody has pinned it with apt-mark hold; a hold is respected.
remedy = apt-mark unhold {package}, or set the version variable to the version that is installed.

[PACKAGE_DOWNGRADE]
layer = packages
severity = error
title = The installed package is newer than the wanted version
cause = Going back to an older version can hide images and containers (newer engines keep them in another store),
  so it is never done unasked.
remedy = Set the version variable to the installed version (or ''), go back with playbooks/upgrade.yml, which
  proves the result, or allow the downgrade: rootless_docker_allow_downgrade: true.

[PACKAGE_NO_WAY_BACK]
layer = packages
severity = warning
title = The installed version of a package is no longer offered
cause = If the new version fails its proof, this one cannot be put back: no source has it any more.
remedy = Keep old versions on your mirror, or upgrade a host first on which that does not matter.

[PACKAGE_CONFLICT]
layer = packages
severity = error
title = Packages that are in use are in the way
cause = The wanted packages replace these: they belong to a root engine that is kept, or something else on the
  host needs them.
remedy = Set rootless_docker_source to the origin that is installed, or remove these packages yourself first if
  nothing needs them.

[APT_LOCKED]
layer = packages
severity = error
title = Another program has been holding the package manager's lock
cause = Usually unattended-upgrades, a second apt, or a package script that waits for an answer.
remedy = Wait for it, or look at it with 'fuser -v /var/lib/dpkg/lock-frontend /var/lib/apt/lists/lock', then run
  again.

[APT_BUSY]
layer = packages
severity = warning
title = The package manager is at work right now
cause = Often unattended-upgrades shortly after boot; package tasks wait for it, then give up.
remedy = Wait until it is done, or look at it: fuser -v /var/lib/dpkg/lock-frontend

[APT_SOURCE_DEAD]
layer = packages
severity = warning
title = An apt source names a repository that is gone
cause = Old instructions added nvidia.github.io/nvidia-docker, which ended in favour of the container toolkit's
  repository.
remedy = Remove {path}; the toolkit comes from https://nvidia.github.io/libnvidia-container now.

[DPKG_INTERRUPTED]
layer = packages
severity = warning
title = The package manager was stopped half-way
cause = A power cut, a kill or a full disk during an installation; until it is completed apt refuses to go on.
remedy = Run site.yml, which completes it first; or by hand: dpkg --configure -a; apt-get -f install

[DPKG_REINSTALL]
layer = packages
severity = error
title = A package that is not this collection's has to be installed again before apt goes on
cause = Its installation was stopped at a point from which dpkg cannot complete it by itself.
remedy = apt-get install --reinstall {packages}

[DRIVER_UPGRADES_UNATTENDED]
layer = packages
severity = warning
title = The NVIDIA driver may be upgraded at night, under running jobs
cause = unattended-upgrades is on and nothing holds the driver: a new library beside the old loaded module takes
  every GPU away until a reboot.
remedy = apt-mark hold the driver's packages, or add 'nvidia' and 'libnvidia' to
  Unattended-Upgrade::Package-Blacklist in /etc/apt/apt.conf.d/50unattended-upgrades.

[PACKAGE_REMOVAL_FAILED]
layer = packages
severity = error
title = apt could not remove packages
cause = dpkg or apt refused: its words are above.
remedy = Mend what it names (often: dpkg --configure -a, apt-get -f install), then run again.

[CA_TOOL_MISSING]
layer = packages
severity = error
title = The host has no tool to trust a certificate authority with
cause = gpulab_proxy.ca is to be trusted by the whole host, and the package ca-certificates is not installed.
remedy = apt-get install ca-certificates

[COMMAND_ARRIVED_BROKEN]
layer = packages
severity = error
title = The command gpulab did not arrive on the host as it was sent
cause = Its checksum is another one; the disk under the remote temporary folder may be full or failing.
remedy = Run again; if it happens again: df and dmesg on the host.

# --- engine ---------------------------------------------------------------------------------------

[ROOTFUL_ENGINE]
layer = engine
severity = error
title = A root-owned Docker engine is in use on this host
cause = A rootful engine hands root on the host to everyone who can reach its socket, and this run would end it;
  nothing has been changed.
remedy = Keep it beside the users' own engines (rootless_docker_rootful: keep), or have it ended when its
  containers may stop (rootless_docker_rootful: remove). Its data stays in {data_root} either way.

[ROOTFUL_ENGINE_ENDED]
layer = engine
severity = warning
title = A root-owned Docker engine is ended by this run, and its containers with it
cause = rootless_docker_rootful is remove: the engine is stopped and kept from starting again. Nothing of its data
  is deleted.
remedy = Images and volumes can be brought to a user's engine (docker save, docker load, tar) or deleted by hand;
  rootless_docker_rootful: keep leaves such an engine alone.

[KUBERNETES_NODE]
layer = engine
severity = error
title = This host is a Kubernetes node whose containerd the engine's packages would replace
cause = The Docker packages bring their own containerd and take the place of the one that kubelet uses.
remedy = Take the host out of gpu_hosts, or drain and remove it from its cluster first.

[ENGINE_MISSING]
layer = engine
severity = error
title = The rootless engine's programs are not installed
cause = The packages were not installed, or removed again.
remedy = Run the rootless_docker role (tag engine), which installs them.

[ENGINE_TOO_OLD]
layer = engine
severity = error
title = The Docker engine is older than the oldest that works
cause = CDI devices in a rootless engine need Docker 26.1.
remedy = Use the vendor's packages (rootless_docker_source: vendor) or set rootless_docker_engine_version to 28.2
  or newer.

[ENGINE_BELOW_RECOMMENDED]
layer = engine
severity = info
title = The Docker engine works, but a newer one is recommended
cause = Before 28.2 a container with a GPU and a restart policy does not come back by itself after a restart of
  the engine.
remedy = Set rootless_docker_engine_version to 28.2 or newer when it suits.

[ENGINE_START_FAILED]
layer = engine
severity = error
title = A user's engine does not start
cause = The engine's own last words are above; a full data root, a data root on a network file system and missing
  subordinate ids are common.
remedy = As {user}: journalctl --user -u docker.service; correct what it names, then run again.

[ENGINE_UNRESPONSIVE]
layer = engine
severity = error
title = A user's engine is running but does not answer
cause = The process is there and its socket gives no answer: it hangs, or its socket was removed under it.
remedy = As {user}: systemctl --user restart docker.service (this ends the containers), then run again.

[ENGINE_RESTART_PENDING]
layer = engine
severity = warning
title = A user's engine runs with older settings or programs than are installed
cause = Containers are running, and an engine is not restarted under them unasked.
remedy = Run again when no container is running, or let this run stop and start them again: -e
  gpulab_when_busy=proceed (or wait). By hand, as {user}: systemctl --user restart docker.service

[ENGINE_UPGRADE_PENDING]
layer = engine
severity = warning
title = Another version of the engine is ready and not installed, because containers are running
cause = An engine whose programs are replaced cannot start containers until it is restarted, so both are done
  together, when nothing runs. The packages are fetched.
remedy = Run again when no container is running, or stop and start them in one go, with a way back:
  ansible-playbook -i inventory gpulab.fleet.upgrade -e gpulab_when_busy=proceed (or wait).

[WORK_NOT_BACK]
layer = engine
severity = error
title = Containers that were stopped for a change do not run again
cause = They were running before, and after the change they do not start or do not become healthy.
remedy = As {user}: docker ps -a and docker logs NAME say why. What is not started yet is listed in {record}, and
  each run tries again.

[DAEMON_JSON_INVALID]
layer = engine
severity = error
title = A user's daemon.json is not valid JSON
cause = The file was edited by hand; it was left as it is.
remedy = Correct the place named above (or move the file away), then run again.

[DAEMON_JSON_REJECTED]
layer = engine
severity = error
title = dockerd rejects the settings for a user's daemon.json
cause = An unknown option or a value of the wrong type; the file was left as it is.
remedy = Correct rootless_docker_daemon or gpulab_users.{user}.daemon (or the user's own file), then run again.

[DAEMON_JSON_TYPO]
layer = engine
severity = error
title = A daemon.json option is spelled like its command line flag and would be ignored
cause = dockerd accepts the singular spelling in its check and then does not use it.
remedy = Write {right} instead of {wrong}.

[DATA_ROOT_NETWORK_FS]
layer = engine
severity = error
title = The engine's data root would lie on a network file system
cause = Rootless layers need subordinate ids and overlay mounts, which NFS and its like do not offer.
remedy = Give the user a local data root: gpulab_users.{user}.daemon: {{data-root: /some/local/disk/{user}}}, a
  folder that the user owns.

[CLI_CONFIG_INVALID]
layer = engine
severity = error
title = A user's Docker CLI configuration is not valid JSON
cause = The file was edited by hand; it was left as it is.
remedy = Correct the place named above (or move the file away), then run again.

[DOCKER_SNAP]
layer = engine
severity = error
title = Docker is installed as a snap
cause = Inside the snap the NVIDIA libraries do not exist (libnvidia-ml.so.1 is not found), and its command
  shadows the right one.
remedy = Save what its containers and volumes hold, then: snap remove docker

[DOCKER_DESKTOP]
layer = engine
severity = error
title = Docker Desktop is in the way
cause = Its engine runs in a virtual machine that has no GPU, and its context takes over the docker command.
remedy = docker context use default; apt-get remove docker-desktop (its images stay in ~/.docker/desktop until
  deleted)

[PODMAN_DOCKER]
layer = engine
severity = warning
title = The docker command is podman's
cause = The package podman-docker stands in for Docker's command line; it conflicts with the packages to be
  installed.
remedy = apt-get remove podman-docker (podman itself may stay)

[ENGINE_OTHER_ORIGIN]
layer = engine
severity = warning
title = Docker is installed from the other origin
cause = apt replaces {wrong} by {right}; images and containers under the data root stay.
remedy = Nothing where that is wanted; else set rootless_docker_source to the origin that is installed.

[ENGINE_DOWN]
layer = engine
severity = error
title = A user's engine does not run
cause = It was stopped, or ended with an error.
remedy = As {user}: journalctl --user -u docker.service -n 30; systemctl --user start docker.service

[ENGINE_START_LIMIT]
layer = engine
severity = error
title = A user's engine was started too often and is given up on
cause = Too many starts within a minute, failed or asked for, and systemd starts it no more.
remedy = As {user}: systemctl --user reset-failed docker.service; systemctl --user start docker.service;
  journalctl --user -u docker.service tells why it ended.

[ENGINE_CDI_OFF]
layer = engine
severity = error
title = The engine of a user with GPUs does not take CDI devices
cause = Before Docker 28.2 CDI is off unless daemon.json says otherwise; somebody may also have switched it off.
remedy = Run the rootless_docker role (tag engine) for {user}, which writes features.cdi; it needs a restart of
  the engine.

[ENGINE_CDI_FOLDER]
layer = engine
severity = error
title = The engine of a user with GPUs does not read the folder of its CDI spec
cause = A rootless engine sees /etc/cdi and /run/cdi only in part or not at all; cdi-spec-dirs in daemon.json must
  name {folder}.
remedy = Run the rootless_docker role (tag engine) for {user}, which adds it; it needs a restart of the engine.

[DATA_ROOT_NOT_OWNED]
layer = engine
severity = error
title = An engine's data root belongs to somebody else
cause = It was made by root or by another account, so the user's engine cannot start.
remedy = When it is empty or may be handed over: chown {user}: {path}; else name another folder in
  gpulab_users.{user}.daemon.

[CONTAINER_LOST_GPU]
layer = engine
severity = warning
title = A container stays down because its GPU was missing when it was to start
cause = The engine does not try again when the GPU's description is back.
remedy = As {user}: docker start {name} (systemctl start gpulab-cdi does it for containers with a restart policy)

# --- users ----------------------------------------------------------------------------------------

[USER_MISSING]
layer = users
severity = error
title = A user named in the inventory does not exist on the host
cause = The name is misspelled, the directory service does not answer, or the account was never made.
remedy = Make the account, correct the name, or have it made: gpulab_users.{user}.create: true.

[UID_TAKEN]
layer = users
severity = error
title = The uid for an account to be made belongs to another account
cause = {setting} is {uid}, which is {owner}'s on this host; useradd makes no second account with it.
remedy = Give {setting} a uid that is free (getent passwd {uid} says whose it is), or leave it out.

[UID_DIFFERS]
layer = users
severity = error
title = An account exists with another uid than the inventory says
cause = {setting} is {uid}, and {user} has {has}; the uid is used only where the account is made.
remedy = Set {setting} to {has} or leave it out; an account's uid is changed by hand only (usermod -u), with all
  that belongs to it.

[USER_IS_ROOT]
layer = users
severity = error
title = A rootless engine cannot belong to root
cause = The point of it is that neither the engine nor a container has root on the host.
remedy = Name an ordinary user in gpulab_users.

[USER_IS_SYSTEM]
layer = users
severity = error
title = A user of the inventory is a system account
cause = {user} has uid {uid}; below {floor} are the accounts of services, and an engine gives whoever may become
  that account containers, GPUs and a service manager that never ends.
remedy = If it is meant, say so with gpulab_users.{user}.system: true; else name a person's account.

[USER_IN_DOCKER_GROUP]
layer = users
severity = warning
title = A user with a rootless engine is in the group docker
cause = Whoever is in it is root on this host as soon as a root-owned engine runs. Nobody is put there by us.
remedy = gpasswd -d {user} docker (it takes effect at the next login)

[DOCKER_HOST_NOT_SET]
layer = users
severity = warning
title = The users' sessions have no DOCKER_HOST
cause = pam-auth-update leaves files alone that an administrator has edited by hand. docker itself finds the
  engine by its context; SDKs and editors do not.
remedy = Run pam-auth-update and choose the profile of gpulab.fleet, or set rootless_docker_docker_host: false and
  DOCKER_HOST in some other way.

[LIMIT_UNENFORCEABLE]
layer = users
severity = error
title = A limit is asked for that this host cannot enforce
cause = systemd ignores a limit whose controller the kernel does not offer. What an engine stores belongs to the
  user's subordinate ids, which no quota of a user counts.
remedy = Take the limit away. For cpus and memory /sys/fs/cgroup/cgroup.controllers must list their controllers
  (cgroup v2, no cgroup_disable on the kernel's command line); instead of disk give the engine a file system of
  that size with gpulab_users.{user}.daemon.data-root.

[REGISTRY_LOGIN_ELSEWHERE]
layer = users
severity = error
title = A user's Docker keeps its registry logins in a program of its own
cause = With credsStore or credHelpers in ~/.docker/config.json the CLI never looks at the logins in that file.
remedy = Log in as {user} with docker login and take gpulab_users.{user}.registries away, or remove credsStore and
  credHelpers from that file.

[HOME_UNUSABLE]
layer = users
severity = error
title = A user's home, or something in it, is missing or belongs to somebody else
cause = The engine keeps its unit, settings and (by default) data there; a ~/.docker that belongs to root is what
  an earlier 'sudo docker' leaves behind.
remedy = Make {home} exist and belong to {user} (chown {user}: {home}), then run again.

[USER_MANAGER_DOWN]
layer = users
severity = error
title = A user's systemd manager does not run
cause = Without it nothing of the user's runs without a login; lingering was switched on but user@{uid}.service is
  not up.
remedy = Look at 'systemctl status user@{uid}.service' (libpam-systemd and dbus-user-session must be installed),
  then run again.

[SUBID_MISSING]
layer = users
severity = error
title = A user has too few subordinate ids for a rootless engine
cause = /etc/subuid and /etc/subgid must give the user at least 65536 ids each.
remedy = Run the rootless_docker role (tag engine), which allots them without overlap.

[SUBID_OVERLAP]
layer = users
severity = error
title = Two users share subordinate ids
cause = With shared ids one user's containers can read and write the other's files. Ranges in use are never moved
  by this collection.
remedy = Give one of them another range by hand in {path} while that user has no container; then hand its engine's
  data over or start with an empty data root.

[SUBID_EXHAUSTED]
layer = users
severity = error
title = No free range of subordinate ids is left
cause = Existing ranges and accounts leave no gap of that size between 100000 and 4294967294.
remedy = Remove ranges of users that are gone from /etc/subuid and /etc/subgid.

[SUBID_COVERS_ACCOUNT]
layer = users
severity = warning
title = A user's subordinate ids contain the id of a real account
cause = A container of that user can act on files as the account; ranges in use are never moved by this
  collection.
remedy = Give {user} another range by hand while it has no container, or the account another id.

[SUBID_FILE_INVALID]
layer = users
severity = error
title = A file of subordinate ids has a line that cannot be read
cause = Each line must be name:start:count; the file was left as it is.
remedy = Correct that line in {path}.

[USER_LEFT_OVER]
layer = users
severity = warning
title = A user has an engine of this collection's and is not in gpulab_users any more
cause = Taking a name out of gpulab_users takes nothing from the host: engine, lingering and GPUs stay as they
  were at the last run that named it.
remedy = Put gpulab_users.{user} back with state: absent (and data: keep or remove), run site.yml, and take the
  name out then.

[ENGINE_IN_USE]
layer = users
severity = warning
title = An engine is to go and has containers running that belong to no stack of this collection
cause = They may be somebody's work, so that nothing of this user's was touched.
remedy = Stop them as {user}, or run again with gpulab_when_busy: wait (until they end, at most
  gpulab_busy_timeout seconds) or proceed (stop them).

[ENGINE_STOP_FAILED]
layer = users
severity = error
title = An engine that is to go does not stop
cause = A container ignores its stop signal, or the engine was not started by its unit.
remedy = As {user}: systemctl --user status docker.service; end what holds it, then run again.

[DATA_KEPT]
layer = users
severity = info
title = The data of an engine that is gone were kept
cause = Images, volumes and stack data are deleted only when the inventory says so.
remedy = To delete them: gpulab_users.{user}.data: remove (with state: absent), or gpulab_reset_purge_data:
  [{user}] for playbooks/reset.yml. Until then their subordinate ids stay reserved.

[DATA_NOT_DELETED]
layer = users
severity = error
title = Data of an engine could not be deleted
cause = They belong neither to the user nor to their subordinate ids, or a mount lies in them.
remedy = Look at what is left (ls -lan, findmnt), remove it as root, then run again.

[ACCOUNT_NOT_REMOVED]
layer = users
severity = error
title = An account that this collection made could not be removed
cause = Somebody is logged in as it, or runs a program.
remedy = loginctl terminate-user {user}, then run again.

[RESET_ENGINES_LEFT]
layer = users
severity = error
title = Users' engines are still there, and the packages they run from are to go
cause = host_reset comes after rootless_docker_user with state=absent for every user.
remedy = Run playbooks/reset.yml, which keeps that order.

[LINGER_OFF]
layer = users
severity = warning
title = A user's engine ends with the last login and does not start at boot
cause = Lingering is off for the user.
remedy = loginctl enable-linger {user}

[USER_BUS_MISSING]
layer = users
severity = error
title = A user's manager has no bus
cause = dbus-user-session is not installed, so systemctl --user and the engine's cgroups do not work.
remedy = apt-get install dbus-user-session; systemctl restart user@{uid}.service (this ends the user's sessions)

[CLI_ELSEWHERE]
layer = users
severity = warning
title = A user's docker command does not reach the user's own engine
cause = Another context is current, or none, and the root-owned engine's socket is what the command then tries.
remedy = As {user}: docker context create rootless --docker host={own}; docker context use rootless

# --- driver ---------------------------------------------------------------------------------------

[NVML_LIBRARY_MISMATCH]
layer = driver
severity = error
title = The NVIDIA library is newer or older than the loaded kernel module
cause = The driver packages were upgraded (often by unattended-upgrades) while the old kernel module stayed
  loaded; NVML answers with code 18.
remedy = Reboot the host, or unload and reload the nvidia modules with no process using the GPUs; then hold the
  nvidia packages.

[DRIVER_MISSING]
layer = driver
severity = warning
title = There is an NVIDIA GPU and no driver for it
cause = The driver is installed by hand or by the site, not by this collection; the run goes on without GPU.
remedy = On this host: {how}. Then run again. gpulab_gpus_expected makes a missing driver an error.

[DRIVER_EXPECTED]
layer = driver
severity = error
title = GPUs are expected of this host, and it has no NVIDIA driver
cause = gpulab_gpus_expected says that GPUs must work here; the driver is not installed by this collection.
remedy = On this host: {how}. Then run again; or take gpulab_gpus_expected away to go on without GPU.

[DRIVER_HEADERS_MISSING]
layer = driver
severity = error
title = The NVIDIA driver could not be built for the running kernel, whose headers are missing
cause = DKMS builds the module when a kernel is installed, and only where that kernel's headers are.
remedy = apt-get install linux-headers-{kernel}; dkms autoinstall -k {kernel}; modprobe nvidia

[DRIVER_NOT_SIGNED]
layer = driver
severity = error
title = Secure Boot most likely keeps the NVIDIA driver out
cause = The firmware lets only modules in that are signed with a key it knows; one built here by DKMS is not.
remedy = 'modprobe nvidia' says 'Key was rejected by service' then. Enrol the key that signs it (mokutil --import
  /var/lib/shim-signed/mok/MOK.der, then reboot and confirm), or use the distribution's signed modules.

[DRIVER_NOT_FOR_NEXT_KERNEL]
layer = driver
severity = warning
title = The kernel that the next boot takes has no NVIDIA driver
cause = A newer kernel was installed without the driver's module; after a reboot every GPU is gone.
remedy = Before the reboot: apt-get install linux-headers-{kernel}; dkms autoinstall -k {kernel}. With Ubuntu's
  own modules: apt-get install the linux-modules-nvidia package of that kernel.

[DRIVER_NOT_LOADED]
layer = driver
severity = error
title = The NVIDIA kernel driver is not loaded
cause = The driver is not installed, was not built for the running kernel, is kept out by Secure Boot or a
  blacklist, or failed to start.
remedy = Look at 'dkms status', 'modprobe nvidia' and 'dmesg | grep -i nvrm'; then 'systemctl start gpulab-cdi' or
  run again.

[GPU_NODES_MISSING]
layer = driver
severity = error
title = The driver is there, but no GPU can be opened
cause = No device node /dev/nvidia0, /dev/nvidia1 ... exists, or the driver counts no GPU.
remedy = Run 'nvidia-smi' as root, which makes the nodes; if it shows no GPU, look at 'lspci -d 10de:' and 'dmesg
  | grep -i nvrm'.

[UVM_MISSING]
layer = driver
severity = error
title = /dev/nvidia-uvm is missing
cause = The module nvidia-uvm is not loaded, or its node was not made: nvidia-smi works without it, CUDA does not
  (cuInit answers 999).
remedy = Run 'nvidia-modprobe -c0 -u', or 'modprobe nvidia-uvm' and 'nvidia-ctk system create-device-nodes
  --control-devices'; then 'systemctl start gpulab-cdi'.

[GPU_NODES_RESTRICTED]
layer = driver
severity = warning
title = Device nodes of the GPUs are not open to everyone
cause = In a rootless container a node is a bind mount owned by nobody: without read and write for others it
  cannot be opened, and groups do not help.
remedy = Set NVreg_DeviceFileMode=0666 for the nvidia module, or give each user an access list entry on the nodes.

[GPU_SHARES_PENDING]
layer = driver
severity = warning
title = GPU shares are enforced only from the next start of the driver on
cause = The loaded driver still repairs its device nodes, and any user can have it do so; within a minute they are
  closed again, until the next time.
remedy = Reboot, or unload and load the driver's modules. Where the driver is loaded from the initramfs, run
  update-initramfs -u before.

[NO_GPU]
layer = driver
severity = info
title = This host has no NVIDIA GPU
cause = There is no NVIDIA display device on the PCI bus; engines and stacks work without one.
remedy = Nothing to do. Where a GPU should be, set gpulab_gpus_expected so that its absence fails the run, and
  look at 'lspci -d 10de:'.

[PYTHON_PARTS_MISSING]
layer = driver
severity = error
title = The Python parts that ask the driver and the engine are not on this host
cause = The controller brings nvidia-ml-py and the Docker SDK to {path}; that has not happened yet, or they were
  removed.
remedy = Run the gpu_verify role (tag proof), which brings them; in check mode on a fresh host this is expected.

[NVML_NO_PERMISSION]
layer = driver
severity = error
title = The driver refuses to answer for want of permission
cause = The device nodes of {gpu} are not open to this account (mode 0660 after NVreg_DeviceFileMode, for
  example).
remedy = Give /dev/nvidia* the mode 0666 (NVreg_DeviceFileMode=0666) or an ACL for the user, then run again.

[NVML_LIBRARY_NOT_FOUND]
layer = driver
severity = error
title = The GPU is there and the driver's library is not
cause = The NVIDIA driver is not installed, or only its kernel part; libnvidia-ml.so.1 comes with the driver's
  compute packages.
remedy = Install the driver (on Ubuntu: ubuntu-drivers install --gpgpu, and the matching nvidia-utils package),
  reboot, run again.

[NVML_GPU_LOST]
layer = driver
severity = error
title = A GPU has fallen off the bus
cause = The driver cannot reach it any more: power, heat, a riser or slot, or a fault of the board; the kernel log
  has an Xid 79.
remedy = dmesg | grep Xid; power the host off and on (a warm reboot may not do); when {gpu} is lost again, have
  the hardware looked at.

[NVML_RESET_REQUIRED]
layer = driver
severity = error
title = A GPU needs a reset before it can be used
cause = An error that the hardware contains only by stopping, often in memory.
remedy = End what uses it, then nvidia-smi --gpu-reset -i {gpu}, or reboot the host.

[NVML_BLOCKED]
layer = driver
severity = error
title = The operating system blocks the driver's request
cause = A device cgroup, AppArmor, SELinux or a container around this host keeps it from the device nodes.
remedy = journalctl -k | grep -iE 'apparmor|avc|nvidia' names what refused; allow /dev/nvidia* there.

[NVML_TIMEOUT]
layer = driver
severity = error
title = The driver does not answer
cause = {gpu} or its firmware (GSP) hangs, or is being initialised by another process without persistence mode.
remedy = dmesg | grep -E 'Xid|GSP'; reboot the host; set persistence mode (systemctl enable --now
  nvidia-persistenced).

[NVML_CRASHED]
layer = driver
severity = error
title = The driver's library crashed while it was asked
cause = Its parts are of different versions, or a GPU answers with nonsense.
remedy = Reinstall the driver's packages in one version, reboot, run again.

[NVML_NO_DEVICES]
layer = driver
severity = error
title = The driver runs and sees no GPU, though the host has one
cause = The GPU failed to initialise (RmInitAdapter in dmesg), is bound to vfio-pci, is excluded, or is too old or
  too new for this driver.
remedy = dmesg | grep -iE 'NVRM|nvidia' names which; install a driver that supports the GPU, or reseat it.

[NVML_UNKNOWN]
layer = driver
severity = error
title = NVML answers 'unknown error'
cause = Often the device nodes are missing or not accessible, as in a container that lost them; otherwise an
  internal fault of the driver.
remedy = ls -l /dev/nvidia*; dmesg | grep NVRM; reboot the host when both look right.

[NVML_ERROR]
layer = driver
severity = error
title = NVML answers a question about a GPU with an error
cause = See the code above; NVML's documentation names it.
remedy = dmesg | grep NVRM; run nvidia-smi -q for {gpu}; reboot the host when nothing explains it.

[GPU_ROW_REMAP_FAILED]
layer = driver
severity = error
title = A GPU's memory is broken beyond what it can replace
cause = Remapping a faulty memory row failed: the spare rows are used up.
remedy = Take {gpu} out of service (leave it out of gpulab_users) and have it replaced.

[GPU_ROW_REMAP_PENDING]
layer = driver
severity = warning
title = A GPU waits for a reset to replace a faulty memory row
cause = An uncorrectable memory error was found; the row is replaced at the next reset.
remedy = When it is idle: nvidia-smi --gpu-reset -i {gpu}, or reboot the host.

[GPU_ECC_UNCORRECTED]
layer = driver
severity = warning
title = A GPU had uncorrectable memory errors
cause = Results of jobs that ran then may be wrong; one after long use is normal, several are not.
remedy = Reset {gpu} or reboot; when they come back, run dcgmi diag -r 3 and have it replaced.

[GPU_COMPUTE_EXCLUSIVE]
layer = driver
severity = warning
title = A GPU admits one process at a time
cause = Its compute mode is exclusive, so a second container with this GPU fails with 'devices unavailable'.
remedy = nvidia-smi -i {gpu} -c DEFAULT, unless one process at a time is what you want.

[GPU_COMPUTE_PROHIBITED]
layer = driver
severity = error
title = A GPU admits no process
cause = Its compute mode is 'prohibited'.
remedy = nvidia-smi -i {gpu} -c DEFAULT

[GPU_PCIE_NARROW]
layer = driver
severity = warning
title = A GPU is connected by fewer PCIe lanes than it could use
cause = The slot has fewer lanes, or the card, riser or cable has a bad contact; copies are slower in proportion.
remedy = Compare with the other GPUs and the board's manual; reseat {gpu} when it should have more.

[GPU_SLOWED_DOWN]
layer = driver
severity = warning
title = A GPU is slowed down by heat or power
cause = It protects itself: cooling is not enough, or its power supply brakes it.
remedy = nvidia-smi -q -d TEMPERATURE,POWER,PERFORMANCE -i {gpu}; look at fans, filters, room and power cables.

[GPU_FABRIC_NOT_READY]
layer = driver
severity = error
title = The NVSwitch fabric of a GPU is not up
cause = nvidia-fabricmanager does not run or has another version than the driver; CUDA then answers 802.
remedy = Install nvidia-fabricmanager in exactly the driver's version; systemctl enable --now
  nvidia-fabricmanager.

[GPU_MIG_PENDING]
layer = driver
severity = warning
title = A change of a GPU's MIG mode is not in force
cause = It takes a reset of the GPU, which does not happen while something uses it.
remedy = End what uses it, then nvidia-smi --gpu-reset -i {gpu}, or reboot the host.

[GPU_MIG_EMPTY]
layer = driver
severity = error
title = A GPU is in MIG mode without an instance
cause = In MIG mode only instances can compute, and none has been made (they do not survive a reboot by
  themselves).
remedy = Make instances (nvidia-smi mig -i {gpu} -cgi … -C, or nvidia-mig-manager for good), or turn MIG off:
  nvidia-smi -i {gpu} -mig 0.

[GPU_PERSISTENCE_OFF]
layer = driver
severity = info
title = The driver lets go of a GPU when nothing uses it
cause = Persistence mode is off: every first use pays for initialisation, and settings of nvidia-smi are lost in
  between.
remedy = systemctl enable --now nvidia-persistenced, which the next run does where it is installed; NVIDIA's
  installer brings it as an example only.

[CUDA_LIBRARY_NOT_FOUND]
layer = driver
severity = error
title = libcuda.so.1 is not there
cause = On the host: the driver's compute library is not installed. In a container: the CDI spec was made without
  it.
remedy = Install the driver's compute package (libnvidia-compute / libcuda1) in the driver's version, then run the
  nvidia_container_toolkit role again.

[CUDA_NO_DEVICE]
layer = driver
severity = error
title = CUDA sees no GPU (100)
cause = No device node that it may open, MIG mode without an instance, or CUDA_VISIBLE_DEVICES hides all.
remedy = Compare 'nvidia-smi -L' on the host with the CDI spec of the user; run the nvidia_container_toolkit role
  again.

[CUDA_INVALID_DEVICE]
layer = driver
severity = error
title = CUDA says the GPU is not valid (101)
cause = The set of GPUs changed while it was asked, or a node leads to another GPU than the driver expects.
remedy = Run the nvidia_container_toolkit role again, so that the CDI spec is made anew; reboot when it persists.

[CUDA_OUT_OF_MEMORY]
layer = driver
severity = error
title = The GPU has no memory left for the proof (2)
cause = Other processes hold it; the proof needs a few hundred MiB for a context.
remedy = nvidia-smi shows who holds memory on {gpu}; run again when there is some.

[CUDA_NOT_INITIALIZED]
layer = driver
severity = error
title = CUDA is not initialised (3)
cause = cuInit failed before in this process, or the driver was unloaded under it.
remedy = Look at the finding before this one; reload the driver or reboot the host.

[CUDA_DEVICES_UNAVAILABLE]
layer = driver
severity = error
title = The GPU is busy or not available (46)
cause = It is in exclusive compute mode and another process has it, or it is being reset.
remedy = nvidia-smi -q -d COMPUTE -i {gpu}; nvidia-smi -i {gpu} -c DEFAULT lets several processes in.

[CUDA_PTX_REJECTED]
layer = driver
severity = error
title = The driver cannot compile the proof's kernel for this GPU (209, 218, 222)
cause = The GPU is older than compute capability 5.2, or the driver is far too old for PTX 6.0.
remedy = Upgrade the driver (at least 525); GPUs below compute capability 5.2 are not supported.

[CUDA_JIT_MISSING]
layer = driver
severity = error
title = The driver's PTX compiler is missing (221)
cause = libnvidia-ptxjitcompiler.so.1 is not installed on the host, or the CDI spec was made without it.
remedy = Install the driver's complete compute package in one version, then run the nvidia_container_toolkit role
  again.

[CUDA_KERNEL_FAULT]
layer = driver
severity = error
title = A kernel that is known to be right failed on the GPU (700, 702, 714-719)
cause = The GPU, its memory or the driver is faulty: the same kernel runs on healthy ones.
remedy = dmesg | grep Xid; reset {gpu} or reboot; when it comes back, take it out of service.

[CUDA_ECC]
layer = driver
severity = error
title = An uncorrectable memory error stopped the proof (214)
cause = The GPU's memory is faulty.
remedy = Reset {gpu} or reboot; when it comes back, have it replaced.

[CUDA_FABRIC_NOT_READY]
layer = driver
severity = error
title = The system's GPU fabric is not ready (802)
cause = On NVSwitch systems nvidia-fabricmanager must run, in exactly the driver's version.
remedy = Install that version; systemctl enable --now nvidia-fabricmanager; run again.

[CUDA_DRIVER_MISMATCH]
layer = driver
severity = error
title = The CUDA library and the kernel module are of different versions (803)
cause = The driver was upgraded without a reboot, or the CDI spec still names the old library.
remedy = Reboot the host, then run the nvidia_container_toolkit role; hold the nvidia packages in
  unattended-upgrades.

[CUDA_COMPAT_NOT_SUPPORTED]
layer = driver
severity = error
title = A forward-compatibility library is in use on a GPU that may not use it (804)
cause = An image or LD_LIBRARY_PATH brings cuda-compat, which works on data-centre GPUs only.
remedy = Remove cuda-compat from the path, or upgrade the driver instead.

[CUDA_UNKNOWN]
layer = driver
severity = error
title = CUDA answers 'unknown error' (999)
cause = Most often nvidia-uvm is not loaded or /dev/nvidia-uvm is missing (NVML works without it, CUDA does not),
  or its number changed since the CDI spec was made.
remedy = nvidia-modprobe -c0 -u (or modprobe nvidia-uvm), then run the nvidia_container_toolkit role again.

[CUDA_ERROR]
layer = driver
severity = error
title = A CUDA call failed
cause = See the name and number above.
remedy = dmesg | grep -E 'NVRM|Xid'; run the proof again; reboot the host when nothing explains it.

[CUDA_TIMEOUT]
layer = driver
severity = error
title = A CUDA call did not return
cause = The GPU or its firmware hangs, or another process keeps it fully busy.
remedy = dmesg | grep -E 'Xid|GSP'; nvidia-smi shows who uses {gpu}; reboot the host when nobody does.

[CUDA_COPY_DIFFERS]
layer = driver
severity = error
title = Data came back from the GPU changed
cause = Faulty GPU memory, PCIe link, riser, or an IOMMU that remaps wrongly.
remedy = Take {gpu} out of service; dmesg | grep -E 'Xid|AER|DMAR'; have the hardware looked at.

[CUDA_WRONG_RESULT]
layer = driver
severity = error
title = The GPU computes wrong results
cause = The same sum done by the CPU differs: the GPU or its memory is faulty.
remedy = Take {gpu} out of service and have it replaced; do not trust results computed on it.

[NOUVEAU_LOADED]
layer = driver
severity = error
title = The nouveau driver holds the GPU
cause = It was loaded before, or instead of, NVIDIA's; the two exclude each other.
remedy = echo 'blacklist nouveau' > /etc/modprobe.d/no-nouveau.conf; update-initramfs -u; install NVIDIA's driver;
  reboot.

[DRIVER_TOO_OLD]
layer = driver
severity = error
title = The NVIDIA driver is too old
cause = CUDA 12 needs a driver of at least {oldest}, CUDA 13 of 580.
remedy = Install a supported branch (Ubuntu: ubuntu-drivers install --gpgpu nvidia:580-server), then reboot.

[UVM_NODE_STALE]
layer = driver
severity = error
title = /dev/nvidia-uvm belongs to another driver than the one that is loaded
cause = The module's major number changed when it was loaded again, and the old node stayed: nvidia-smi works,
  CUDA does not (999).
remedy = rm /dev/nvidia-uvm /dev/nvidia-uvm-tools; nvidia-modprobe -c0 -u; systemctl start gpulab-cdi

[FABRIC_MANAGER_MISMATCH]
layer = driver
severity = error
title = nvidia-fabricmanager has another version than the driver
cause = One of them was upgraded alone; it refuses to start, and on NVSwitch systems CUDA then answers 802.
remedy = Install nvidia-fabricmanager in exactly the driver's version, hold both, and systemctl restart
  nvidia-fabricmanager.

[XID_HARDWARE]
layer = driver
severity = warning
title = The kernel log tells of a fault of a GPU since boot
cause = Xid {xid} speaks of the hardware, its memory, links or firmware, not of a program.
remedy = nvidia-smi -q -i {gpu}; reset it or reboot when jobs on it fail; when it comes back, have the hardware
  looked at.

[XID_PROGRAM]
layer = driver
severity = info
title = The kernel log tells of a program's mistake on a GPU since boot
cause = Xid {xid} is most often a bad memory access or the end by force of a job; the GPU itself is fine.
remedy = Nothing for the host; look at the job that ran then when it happens again.

[XID_OTHER]
layer = driver
severity = info
title = The kernel log tells of an event on a GPU since boot
cause = Xid {xid}; NVIDIA's list of Xid errors says what it means.
remedy = dmesg | grep Xid shows when; look it up when jobs on {gpu} fail.

# --- toolkit --------------------------------------------------------------------------------------

[TOOLKIT_MISSING]
layer = toolkit
severity = error
title = The NVIDIA container toolkit is not installed
cause = There is no nvidia-ctk, which describes the GPUs for the engines.
remedy = Install nvidia-container-toolkit-base (role gpulab.fleet.nvidia_container_toolkit does).

[TOOLKIT_DAMAGED]
layer = toolkit
severity = error
title = A program of the NVIDIA container toolkit is gone, though its package is installed
cause = Someone removed the file; dpkg still counts the package as installed, so installing it again changes
  nothing.
remedy = apt-get install --reinstall nvidia-container-toolkit-base

[TOOLKIT_VERSION_REFUSED]
layer = toolkit
severity = error
title = This version of the NVIDIA container toolkit is refused
cause = Versions below {floor} have known holes through which a container takes over its host (CVE-2026-24260).
remedy = Set nvidia_container_toolkit_version to {floor} or newer. A site that must have an older one names that
  version in gpulab_accept_versions.

[TOOLKIT_LEGACY_HOOK]
layer = toolkit
severity = warning
title = The toolkit's legacy hook is installed
cause = With it an engine that cannot resolve a GPU falls back to the hook silently; in a rootless engine that
  then fails with a message about bpf or cgroups which hides the cause.
remedy = apt-get remove nvidia-container-toolkit libnvidia-container-tools libnvidia-container1, unless a rootful
  engine needs them.

[CDI_GENERATION_FAILED]
layer = toolkit
severity = error
title = nvidia-ctk could not describe the GPUs
cause = The toolkit stopped with the message above. Specs that were there before are kept.
remedy = Look at 'nvidia-smi' and 'nvidia-ctk cdi generate' as root; when they work, 'systemctl start gpulab-cdi'.

[CDI_SPEC_INCOMPLETE]
layer = toolkit
severity = error
title = The description of the GPUs has holes
cause = nvidia-ctk ended well but left out, or named without its being there, what a CUDA program in a container
  needs: usually a driver package is missing or half upgraded. The spec was not installed.
remedy = Repair the driver's packages (dpkg --configure -a, reinstall the libraries), then 'systemctl start
  gpulab-cdi'.

[CDI_SPEC_CONFLICT]
layer = toolkit
severity = error
title = Another CDI spec names the same GPUs to the same engine
cause = Two specs with the same device names make each of them unresolvable, or the later one wins and goes stale.
remedy = Remove {path}, or take its folder out of cdi-spec-dirs in the user's daemon.json.

[CDI_SETTINGS_INVALID]
layer = toolkit
severity = error
title = The settings of the CDI specs cannot be used
cause = /etc/gpulab/cdi.json is not of the form {{users: {{NAME: all or a list of GPUs}}}}, or a name in it is no
  user name.
remedy = Correct gpulab_users and run the toolkit stage again, which writes that file.

[TOOLKIT_VERSIONS_MIXED]
layer = toolkit
severity = error
title = The toolkit's packages have different versions
cause = Only some were upgraded or pinned; they work only together.
remedy = Install all of them in one version (apt-get install NAME=VERSION for each), or remove all but
  nvidia-container-toolkit-base.

[TOOLKIT_NO_CGROUPS]
layer = toolkit
severity = warning
title = The toolkit is told not to use cgroups, for every engine of the host
cause = Old instructions for rootless Docker set no-cgroups; it takes the GPUs from containers of a root-owned
  engine ('Failed to initialize NVML: Unknown Error'). CDI does not need it.
remedy = nvidia-ctk config --set nvidia-container-cli.no-cgroups=false --in-place

[LEGACY_RUNTIME_DEFAULT]
layer = toolkit
severity = info
title = The root-owned engine starts every container with NVIDIA's runtime
cause = Old instructions set default-runtime: an image that sets NVIDIA_VISIBLE_DEVICES gets GPUs that nobody gave
  it. The rootless engines are not affected.
remedy = Remove default-runtime from /etc/docker/daemon.json when its users name GPUs themselves (--gpus or
  --device).

[CDI_SPEC_UNREADABLE]
layer = toolkit
severity = error
title = A user's CDI spec cannot be read as one
cause = It was cut off or edited; the engine ignores it, so the GPUs are unresolvable.
remedy = rm {path}; systemctl start gpulab-cdi.service makes it anew.

[CDI_SYSTEM_SPEC_STALE]
layer = toolkit
severity = warning
title = A CDI spec of the root-owned engine does not fit the driver
cause = The driver was upgraded or loaded again after the spec was made: containers do not start, or nvidia-smi
  works in them and CUDA answers 999.
remedy = nvidia-ctk cdi generate --output={path} (or, from toolkit 1.18 on, systemctl restart nvidia-cdi-refresh
  for /var/run/cdi)

# --- proof ----------------------------------------------------------------------------------------

[PROOF_GPU_COUNT]
layer = proof
severity = error
title = The host has fewer or more GPUs than the inventory expects
cause = With fewer than expected a GPU is missing, lost or excluded; with more, GPUs were added or
  gpulab_gpus_expected was not raised. It may also be another host's number.
remedy = Compare the GPUs named above with what is built in (lspci -d 10de:); then repair the host or correct
  gpulab_gpus_expected.

[PROOF_USER_UNKNOWN]
layer = proof
severity = error
title = The user whose containers are to be proven does not exist
cause = The name is mistyped, or the account has not been made yet.
remedy = Correct the name, or let the rootless_docker role make the account (create: true).

[PROOF_ENGINE_ABSENT]
layer = proof
severity = error
title = The user has no running rootless engine
cause = There is no socket at {socket}: the engine was not set up for this user, or is stopped.
remedy = Run the rootless_docker role (tag engine) with {user} in gpulab_users; as {user}: systemctl --user status
  docker.service

[PROOF_ENGINE_DEAD]
layer = proof
severity = error
title = The user's engine does not answer
cause = The socket {socket} is there and nothing answers behind it: the engine crashed, hangs or is starting.
remedy = As {user}: journalctl --user -u docker.service; systemctl --user reset-failed docker.service; systemctl
  --user restart docker.service

[PROOF_ENGINE_STALE]
layer = proof
severity = error
title = The engine runs from packages that have been replaced
cause = The packages were upgraded and the user's engine was not restarted; it can keep containers running and
  cannot start new ones.
remedy = As {user}: systemctl --user restart docker.service (containers stop meanwhile), or run the
  rootless_docker role.

[PROOF_DISK_FULL]
layer = proof
severity = error
title = There is no space left for the user's engine
cause = The file system of its data root is full; even restarting the engine fails then.
remedy = Free space before anything else: as {user}, docker system df; docker builder prune; docker image prune.

[PROOF_CDI_OFF]
layer = proof
severity = error
title = The engine does not take CDI devices
cause = The engine is older than 28.2 and its daemon.json lacks features.cdi, or it was not restarted since.
remedy = Run the rootless_docker role for {user} (it writes features.cdi and cdi-spec-dirs), with a restart of the
  engine allowed.

[PROOF_CDI_UNRESOLVED]
layer = proof
severity = error
title = The engine cannot resolve the GPU's CDI name
cause = The engine does not read the folder with the spec (before 29.2 a rootless engine does not see /etc/cdi),
  read it while it was being written, or the spec lacks this GPU.
remedy = Run the nvidia_container_toolkit role again for {user}; the spec has: {there}. When it lists the GPU: as
  {user}, systemctl --user restart docker.service

[PROOF_SPEC_MISSING]
layer = proof
severity = error
title = There is no CDI spec in the folders that the user's engine reads
cause = It was never made, or making it failed; the engine reads only the folders named above.
remedy = Run the nvidia_container_toolkit role; systemctl status gpulab-cdi.service tells why it could not be
  made.

[PROOF_SPEC_STALE]
layer = proof
severity = error
title = The CDI spec names driver files that are gone
cause = The driver was upgraded or removed after the spec was made.
remedy = systemctl start gpulab-cdi.service makes it anew; reboot first when the old kernel module is still
  loaded.

[PROOF_NODE_MISSING]
layer = proof
severity = error
title = A device node that the CDI spec names is missing
cause = nvidia-uvm is not loaded, the GPU fell off the bus, or the nodes were not made at boot.
remedy = nvidia-modprobe -c0 -u; ls -l /dev/nvidia*; then systemctl start gpulab-cdi.service

[PROOF_NODE_FORBIDDEN]
layer = proof
severity = error
title = A device node is there and the user may not open it
cause = The nodes have mode 0660 (group video or render). In a rootless container group membership does not count,
  so the mode or an ACL must allow it.
remedy = Set NVreg_DeviceFileMode=0666 for the nvidia module, or an ACL for {user} on the node; then run again.

[PROOF_HOOK_MISSING]
layer = proof
severity = error
title = A program that the CDI spec runs is missing
cause = nvidia-container-toolkit-base was removed, or installed elsewhere after the spec was made.
remedy = Run the nvidia_container_toolkit role: it installs the package and makes the spec anew.

[PROOF_HOOK_FAILED]
layer = proof
severity = error
title = A program that the CDI spec runs fails
cause = Its own words are above. The toolkit's version and the spec do not belong together, or the image has
  something in the way of what it writes.
remedy = systemctl start gpulab-cdi.service makes the spec anew; when it persists, run the
  nvidia_container_toolkit role again.

[PROOF_GPU_SET_DIFFERS]
layer = proof
severity = error
title = The container does not see exactly the GPUs that it was given
cause = The CDI spec is of another state of the host (GPU replaced, MIG changed), or a second spec describes the
  same devices.
remedy = systemctl start gpulab-cdi.service; leave one spec only in the folders that the engine of {user} reads.

[ISOLATION_BROKEN]
layer = proof
severity = error
title = A container reaches a GPU that it was not given
cause = Something injects more than was asked: an nvidia default runtime, a spec whose common part holds GPU
  nodes, a privileged default, or nodes placed in the image.
remedy = As {user}: docker info | grep -i runtime; look for default-runtime in daemon.json and for /dev/nvidia* in
  the common part of the CDI spec.

[PROOF_BANDWIDTH_LOW]
layer = proof
severity = error
title = Copies to or from the GPU are much slower in the container than on the host
cause = CPU or memory limits on the user's slice, a busy host while it was measured, or page-locked memory that
  the container does not get.
remedy = Run the proof again on an idle host; compare systemctl show user-$(id -u {user}).slice;
  gpu_verify_bandwidth_ratio_min sets the threshold.

[PROOF_IMAGE_FAILED]
layer = proof
severity = error
title = The probe image cannot be made from this host's Python
cause = /usr/bin/python3 or one of its libraries is missing or cannot be read, or the engine refused the image.
remedy = apt-get install --reinstall python3-minimal libpython3-stdlib; then run again.

[PROOF_CONTAINER_FAILED]
layer = proof
severity = error
title = The probe's container did not run
cause = The engine's message is above.
remedy = As {user}: journalctl --user -u docker.service -n 50; when plain containers do not start either, run the
  rootless_docker role.

[PROOF_TIMEOUT]
layer = proof
severity = error
title = The proof did not end in time
cause = The engine or the driver hangs, or the host is far too busy.
remedy = uptime; dmesg | grep -E 'Xid|GSP|hung'; run again; raise the module's timeout on slow hosts.

[PROOF_HOST_UNKNOWN]
layer = proof
severity = warning
title = The probe did not work on the host itself, so there is nothing to compare with
cause = The user may not use the GPU outside a container, or the host's Python cannot load the driver's library.
remedy = As {user}: nvidia-smi; ls -l /dev/nvidia*. The proof in the container stands by itself; only the
  comparison is unknown.

[PROOF_WHEELS_UNAVAILABLE]
layer = proof
severity = error
title = The controller cannot get the Python parts for its hosts
cause = pip on the controller is missing or reaches no index that offers these files with these hashes.
remedy = Set gpu_verify_wheels_index to a PyPI mirror, or put the files that requirements/target.txt names into
  {cache} yourself.

# --- stacks ---------------------------------------------------------------------------------------

[STACK_UNKNOWN]
layer = stacks
severity = error
title = There is no such stack
cause = What was named is neither a stack of the catalogue nor a folder with a Compose file in it.
remedy = Correct gpulab_stacks.{stack}.source; a folder has a slash in its name and, when relative, starts at the
  inventory's folder. On the host: gpulab stacks lists the catalogue, ./NAME is a folder.

[STACK_INVALID]
layer = stacks
severity = error
title = The stack's own files cannot be used
cause = stack.yml or compose.yml is not what docs/stacks.md describes.
remedy = Correct the file that is named; docs/stacks.md has the format.

[STACK_SOURCE_UNREADABLE]
layer = stacks
severity = error
title = The stack's own folder cannot be read as what it is
cause = A file is not open to whoever runs this, or git refuses the checkout (it belongs to somebody else) or is
  not installed.
remedy = Run as the folder's owner; for a checkout of somebody else: git config --global --add safe.directory
  FOLDER; without git: apt-get install git.

[STACK_SETTING_INVALID]
layer = stacks
severity = error
title = A stack is given a setting that it does not have, or one of the wrong kind
cause = The name is mistyped, or the value does not fit what the stack's stack.yml says of it.
remedy = Correct gpulab_stacks.{stack}, or what was typed after gpulab deploy; the stack's stack.yml lists its
  settings.

[STACK_MOUNT_INVALID]
layer = stacks
severity = error
title = What a site mounts into a stack's containers cannot be mounted
cause = The path is not on this host, or what is mounted there is in the way of another mount. What runs was not touched.
remedy = Correct gpulab_stacks.{stack}.mounts; on the host gpulab deploy {stack} --mount NAME=PATH[:TARGET][:rw], NAME=on,
  NAME=off, or NAME= to forget it.

[STACK_SECRET_INVALID]
layer = stacks
severity = error
title = A stack's secrets are not those that it knows
cause = A secret is missing, empty, or not one of those in the stack's stack.yml.
remedy = Correct gpulab_stacks.{stack}.secrets (keep the values in ansible-vault); on the host: gpulab deploy
  --secret NAME=FILE.

[STACK_ENGINE_DOWN]
layer = stacks
severity = error
title = The engine that is to run the stack does not answer
cause = The user has no rootless engine, it is not running, or the docker command is missing.
remedy = List {user} in gpulab_users and run site.yml; as {user}: systemctl --user status docker.

[STACK_GPU_UNPROVEN]
layer = stacks
severity = error
title = The stack needs a GPU, and this user's GPUs are not proven to work in containers
cause = The proof failed, was never run, or is of another boot or another CDI spec.
remedy = ansible-playbook -i inventory gpulab.fleet.verify (it says what is wrong); or run the stack without a
  GPU: gpulab_stacks.{stack}.gpus: {{SERVICE: 0}}.

[STACK_GPUS_SHORT]
layer = stacks
severity = error
title = A service asks for GPUs that its user does not have
cause = gpulab_stacks asks for more GPUs, or for others, than gpulab_users gives this user on this host.
remedy = Correct gpulab_stacks.{stack}.gpus (on the host: gpulab deploy --gpus SERVICE=GPUS), or give {user} the
  GPU in gpulab_users.

[GPU_HELD]
layer = stacks
severity = error
title = A GPU that the stack is to have is held by another stack
cause = Stacks have their GPUs for themselves, whoever's they are, unless both say that they share.
remedy = gpulab gpus shows who holds what. Ask for another GPU or a smaller number, stop the stack that holds it
  (gpulab undeploy), or let both share it (gpu_sharing: shared).

[GPU_HOLDERS_UNWRITABLE]
layer = stacks
severity = error
title = What a stack holds cannot be written where the other users read it
cause = The folder is not there, or a file in it that should be this user's belongs to somebody else.
remedy = Run the rootless_docker role (tag engine), which makes the folder; remove a file of that name in it.

[GPU_HOLDERS_BUSY]
layer = stacks
severity = error
title = The list of who holds which GPU is locked
cause = A process that reads or writes it does not end.
remedy = As root: fuser -v /var/lib/gpulab/holders says which; end it and run again.

[STACK_GPU_UNRESOLVED]
layer = stacks
severity = error
title = The engine does not know the GPU that the stack was given
cause = The user's CDI spec does not describe it, or the engine was started before it could read specs.
remedy = ansible-playbook -i inventory gpulab.fleet.site --limit this host --tags toolkit,proof; then deploy
  again.

[STACK_COMPOSE_INVALID]
layer = stacks
severity = error
title = Compose cannot read the stack
cause = compose.yml has a mistake, or the installed Compose is too old for what it uses. Nothing was changed.
remedy = Correct the stack's compose.yml; `docker compose config` in its folder says the same.

[STACK_NEEDS_ROOT]
layer = stacks
severity = error
title = compose.yml asks for what an engine without root cannot give
cause = It was written for an engine that runs as root. Everything that cannot work is named; what runs still
  runs.
remedy = Change compose.yml as it says, or leave the file alone and put the change into a compose.override.yml.

[STACK_HOST_NETWORK]
layer = stacks
severity = error
title = A service uses the host's network, and nobody says which ports it opens
cause = Before Engine 29.5 the host's network cannot be had without root: the service gets a network of the stack,
  and only ports that are known can be published from it.
remedy = Name the ports in gpulab_stacks.{stack}.publish or the stack's stack.yml: publish: {{SERVICE: [8000]}},
  an empty list for one that only calls others; or install Engine 29.5.

[STACK_NAME_TAKEN]
layer = stacks
severity = error
title = A container of another stack has the name that this one's is to have
cause = container_name in compose.yml is one name for the whole engine. What runs still runs.
remedy = Take container_name out of compose.yml (Compose then makes one of stack and service), or change it.

[STACK_FILE_MISSING]
layer = stacks
severity = error
title = compose.yml names a file that is not there
cause = Containers are given it when they start. Of a stack's folder .env, secrets/, data/ and what Git ignores
  stay behind; nothing that runs was touched.
remedy = Make the file on the host and name it by its absolute path; or name it in the stack's stack.yml under
  secrets, and give it: gpulab_stacks.{stack}.secrets, or on the host gpulab deploy --secret NAME=FILE.

[STACK_EXTERNAL_MISSING]
layer = stacks
severity = error
title = The stack uses a network or volume that somebody else is to make, and it is not there
cause = compose.yml says external: true, so that Compose does not make it. What ran before still runs.
remedy = As {user}: docker network create NAME, or docker volume create NAME; or take external: true out.

[STACK_VOLUME_ANONYMOUS]
layer = stacks
severity = error
title = A service keeps data in a volume without a name
cause = Compose makes such a volume anew with each container, and nobody can tell later what was in which: a
  release would lose its data silently. Either compose.yml mounts nothing at that path but a path inside the
  container, or the image declares it (VOLUME).
remedy = In compose.yml mount something there: a named volume or a folder for data that are to stay, tmpfs for
  what may go.

[STACK_HEALTH_UNKNOWN]
layer = stacks
severity = error
title = A service has no health check, and the stack does not say that this is meant
cause = Without one a deploy cannot tell a service that works from one that merely runs.
remedy = Give the service a healthcheck that asks what it is there for, or name it under no_health in the stack's
  stack.yml; it then counts as well when it stays up.

[STACK_CHECK_FAILED]
layer = stacks
severity = error
title = The stack is healthy, but a check of its own fails
cause = What stack.yml lists under checks did not succeed within its time; what it said last is above.
remedy = Read the service's log (gpulab logs {stack}), correct the stack or the check, and deploy again.

[STACK_GRAPHICS_MISSING]
layer = stacks
severity = error
title = A service that renders would lack the driver's graphics part
cause = The driver was installed without it (server and headless packages are), the CDI spec was made before it
  came, or the image hides it. A simulator would end without a word, or hang. What ran before still runs.
remedy = On the host: apt-get install libnvidia-gl-BRANCH, of the driver's own branch, then systemctl restart
  gpulab-cdi.service and run gpulab.fleet.verify. Where only the container lacks it, do not mount over /usr/share
  or /etc.

[STACK_IMAGE_ARCHITECTURE]
layer = stacks
severity = error
title = An image is made for another processor
cause = It would end at once with `exec format error`. What ran before still runs.
remedy = Name an image for this host's processor in the stack's settings (BASE_IMAGE), save the archive of
  gpulab_stacks.{stack}.images for it (docker pull --platform), or build it there.

[STACK_CUDA_TOO_NEW]
layer = stacks
severity = error
title = An image has a newer CUDA than the host's driver knows
cause = A driver runs programs of its own major CUDA version and of older ones. What ran before still runs.
remedy = Choose an image with an older CUDA in the stack's settings, or install a newer driver on the host. One
  that brings a driver library of its own (cuda-compat): NVIDIA_DISABLE_REQUIRE: 1 in the service's environment.

[STACK_INTERRUPTED]
layer = stacks
severity = error
title = A deploy was cut off
cause = The run was killed, or the host went down, before the new release was healthy.
remedy = Nothing: what ran before runs again. Deploy again when you like.

[RELEASE_NONE_BEFORE]
layer = stacks
severity = error
title = There is no release to go back to
cause = The stack was deployed once only, the releases before were too old to be kept, or what ran before was itself
  rolled back from.
remedy = Name a release (gpulab history {stack} lists them; gpulab rollback {stack} RELEASE, or -e gpulab_release=RELEASE),
  or deploy what should run. gpulab_stacks.{stack}.keep says how many are kept.

[RELEASE_INCOMPLETE]
layer = stacks
severity = error
title = A release is not what it was when it was made
cause = Somebody has changed or removed files in its folder. What runs still runs.
remedy = Go back to another release, or deploy anew: ansible-playbook -i inventory gpulab.fleet.deploy.

[RELEASE_IMAGE_GONE]
layer = stacks
severity = error
title = An image that a release needs is gone
cause = Somebody removed it, its tags included (docker image prune -a, docker rmi). What runs still runs.
remedy = Deploy anew, which builds or fetches it: ansible-playbook -i inventory gpulab.fleet.deploy, or gpulab
  deploy.

[STACK_ARCHIVE_INVALID]
layer = stacks
severity = error
title = An image archive cannot be brought in
cause = The file is missing, damaged, or does not hold an image of the name that it is given for.
remedy = Correct gpulab_stacks.{stack}.images: archive is a file on the controller, from docker save or a file
  system as tar.

[STACK_IMAGE_MISSING]
layer = stacks
severity = error
title = An image cannot be fetched
cause = The registry cannot be reached from this host, wants a login, or has no such image. What ran before still
  runs.
remedy = Name your own registry in the stack's settings (BASE_IMAGE), or bring the image along:
  gpulab_stacks.{stack}.images.

[STACK_BUILD_FAILED]
layer = stacks
severity = error
title = An image of the stack cannot be built
cause = A step of its Dockerfile failed; the output has it. What ran before still runs.
remedy = Read the output. Where packages could not be fetched: the stacks that ship here have PIP_CONF and CA_BUNDLE, settings
  of gpulab_stacks.{stack}. Where COPY does not find what is there: .dockerignore in the stack's folder leaves it out.

[STACK_PORT_TAKEN]
layer = stacks
severity = error
title = A port that the stack publishes is in use
cause = Another stack, another user's engine or another program listens there.
remedy = Give the stack another port in gpulab_stacks.{stack}.settings (on the host: gpulab deploy --set), or stop
  what has this one: ss -lntup names it.

[STACK_ADDRESS_UNKNOWN]
layer = stacks
severity = error
title = A port is to listen on an address that this host does not have
cause = The address is another host's, or its network interface is not up. What ran before still runs.
remedy = Write an address that `ip -brief address` shows in gpulab_stacks.{stack}.settings (BIND_ADDRESS) or in
  compose.yml: 127.0.0.1 for this host alone, 0.0.0.0 for all.

[STACK_PORT_PRIVILEGED]
layer = stacks
severity = error
title = The stack publishes a port below the first that a user may open
cause = A rootless engine opens ports as its user.
remedy = Choose a port from 1024 on in gpulab_stacks.{stack}.settings, or lower
  net.ipv4.ip_unprivileged_port_start.

[STACK_DATA_UNUSABLE]
layer = stacks
severity = error
title = A data folder cannot be made or written to
cause = It lies where {user} may not write; data folders belong to the stack's user.
remedy = Make the folder and give it to {user} (install -d -o {user} FOLDER), or choose another in
  gpulab_stacks.{stack}.settings.

[STACK_DATA_NO_ACL]
layer = stacks
severity = error
title = A data folder lies on a file system that cannot let two users write
cause = The image runs as a user of its own, which is another user on the host. Both can write only with access
  control lists, and this file system (NFS, exFAT) keeps none.
remedy = Choose a folder on a local disk in gpulab_stacks.{stack}.settings; or, where the image allows it, run the
  service as root (user: "0:0" in compose.yml), which is {user} on the host.

[STACK_CONTAINER_USER]
layer = stacks
severity = error
title = A service runs as a user that this engine cannot give it
cause = The image has no user of that name, or the number is beyond the user's subordinate ids.
remedy = Give the service a number that fits (user: in compose.yml); /etc/subuid on the host says how many ids
  {user} has.

[USER_NAMESPACE_REFUSED]
layer = stacks
severity = error
title = The files of containers cannot be reached as their owners
cause = They belong to {user}'s subordinate ids, and neither the engine nor rootlesskit gives access to these.
remedy = ansible-playbook -i inventory gpulab.fleet.site --limit this host --tags engine; then try again.

[STACK_IMAGE_DAMAGED]
layer = stacks
severity = error
title = An image is damaged on the disk and cannot be taken away
cause = A power cut right after it was brought in left layers that end half-way. Loading it again would not mend
  them, and a container still uses it.
remedy = As {user}: docker rm -f the container that is named, then deploy again: the image is brought in anew.

[STACK_DISK_ROOM]
layer = stacks
severity = error
title = There is not enough room on the disk for what the stack is about to write
cause = Some of the disk is kept free, because an engine whose disk is full does not come back from a restart.
  Nothing was changed.
remedy = As {user}: gpulab free gives back the build cache and images that nothing needs; docker system df -v says
  what is large. Or move the engine's data-root (gpulab_users.{user}.daemon) or the data to another disk.

[STACK_SNAPSHOT_FAILED]
layer = stacks
severity = error
title = A snapshot of a stack's data cannot be made or put back
cause = Something wrote to the data meanwhile, or the folder above the data belongs to somebody else.
remedy = Stop whatever uses the data; the folder above it must be {user}'s, because the restored data are made
  beside the old and exchanged. What was there before is still there.

[STACK_SNAPSHOT_UNKNOWN]
layer = stacks
severity = error
title = There is no such snapshot of the stack
cause = The name is mistyped, or the snapshot was removed because newer ones took its place.
remedy = Name one of those that are listed.

[STACK_SNAPSHOT_DAMAGED]
layer = stacks
severity = error
title = A snapshot is not what was written
cause = The file was changed, or the disk lost part of it. The data were not touched.
remedy = Restore another snapshot; look after the disk (journalctl -k), then remove the damaged one.

[STACK_PURGE_UNCONFIRMED]
layer = stacks
severity = error
title = A stack's data are to be deleted, and its name was not typed
cause = Nothing brings purged data back, so that they go only when the stack is named once more.
remedy = Read what would go; then type the stack's name: gpulab purge {stack} --yes-delete {stack}, or the playbook undeploy
  with -e gpulab_stack={stack} -e gpulab_purge={stack}.

[STACK_PURGE_RUNS]
layer = stacks
severity = error
title = A stack's data are to be deleted while the stack is deployed
cause = Its containers would go on writing into what is deleted.
remedy = Undeploy it first (gpulab undeploy {stack}); its data stay until they are purged.

[STACK_DISK_FULL]
layer = stacks
severity = error
title = There is no space left for the stack
cause = The file system with the engine's data root is full.
remedy = As {user}: docker system df; docker image prune; docker builder prune. Do not restart the engine before
  there is space: it would not come back.

[STACK_UNHEALTHY]
layer = stacks
severity = error
title = The stack was started and is not well
cause = A service ended, keeps restarting, or its health check fails; what it said last is above.
remedy = Read what the service said (a failed release keeps its logs), correct it, and deploy again. A slow start
  needs a longer wait_timeout in stack.yml, or compose_stacks_wait_timeout in the inventory.

[STACK_BUSY]
layer = stacks
severity = error
title = Another run is at work on this stack
cause = Two runs were started, or one goes on whose controller was interrupted: it is likely to be building an
  image. Of a run that was killed, what it had started holds the stack until it ends; it was told to.
remedy = Wait, and run again; on the host: ps -fu {user}. Where the run has died: kill -9 the processes that are
  named, and run again; what was cut off is settled first.

[STACK_SOURCE_GONE]
layer = stacks
severity = error
title = The folder that the stack was deployed from is not here any more
cause = It was mounted, not copied, so that nothing of it is kept with the release.
remedy = Name the folder: gpulab deploy FOLDER --name {stack}.

[STACK_NO_DATA]
layer = stacks
severity = error
title = The stack has no data to copy
cause = Nothing in its Compose file or its stack.yml is kept outside of its containers.
remedy = Name what is to be kept under data in the stack's stack.yml, or as a volume.

[STACK_NOT_HERE]
layer = stacks
severity = error
title = There is no stack of that name
cause = The name is mistyped, the stack is another user's, or it was never deployed here.
remedy = gpulab status lists your stacks, gpulab stacks the shipped ones; a folder is named with a slash: ./NAME.

[STACK_NOT_DEPLOYED]
layer = stacks
severity = error
title = No release of the stack is current
cause = It was taken down, or no deployment of it has succeeded yet.
remedy = Deploy it; gpulab history {stack} says what happened so far.

[STACK_SERVICE_UNKNOWN]
layer = stacks
severity = error
title = The stack has no such service
cause = The name is mistyped, or the service is of another release or of a profile that is off.
remedy = Take one of those that are listed above; services for one-off runs are named in stack.yml (runs).

[RELEASE_UNKNOWN]
layer = stacks
severity = error
title = The stack has no such release
cause = The number is mistyped, or the release was pruned: only the newest ones are kept.
remedy = Take one of those that are listed above; gpulab history {stack} says what each was.

[CLI_AS_ROOT]
layer = stacks
severity = error
title = The command works for the user whose engine it is
cause = Root has no rootless engine and no stacks.
remedy = Log in as the stack's user, or: su - USER -c 'gpulab status'.

[CLI_NO_GPUS_GIVEN]
layer = stacks
severity = error
title = This host has no record of GPUs for this user
cause = No GPU was given to {user} (gpulab_users.{user}.gpus), or nothing was proven since.
remedy = Ask whoever runs this host to run ansible-playbook -i inventory gpulab.fleet.verify.

[STACK_DOWN_FAILED]
layer = stacks
severity = error
title = The stack could not be stopped
cause = Compose or the engine refused; its output has why.
remedy = As {user}: docker compose -p {stack} down.
"""


@functools.cache
def catalogue() -> dict[str, dict[str, str]]:
    """The entries by code, in their order here."""
    from configparser import ConfigParser  # where nothing is wrong nobody needs it

    parser = ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",), empty_lines_in_values=False)
    parser.read_string(_ENTRIES)
    return {code: {key: text.replace("\n", " ") for key, text in parser[code].items()} for code in parser.sections()}
