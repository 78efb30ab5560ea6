"""Docker's packages: which binaries they are made of, where their files lie, what their control files and scripts say.

Names, paths, relations and what the maintainer scripts do follow the vendor's packages of the same versions; the
binaries are Debian's. Differences that can be seen are listed in README.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

# Debian suite that holds an engine -> the Debian packages it is made of. runc comes from the oldest suite: newer ones
# need a newer C library than a host that poses as Ubuntu 22.04 has. tini-static is what the vendor calls docker-init.
SOURCES = ("docker.io", "docker-cli", "containerd", "docker-compose", "docker-buildx", "rootlesskit")
ENGINE_SUITES = ("trixie", "forky")
COMMON_SUITE, COMMON_SOURCES = "bookworm", ("runc", "tini")

# Package -> the Debian package that gives its version.
VERSION_OF = {
    "docker-ce": "docker.io",
    "docker-ce-cli": "docker.io",
    "docker-ce-rootless-extras": "docker.io",
    "containerd.io": "containerd",
    "docker-compose-plugin": "docker-compose",
    "docker-buildx-plugin": "docker-buildx",
}
CONTRIB = "usr/share/docker.io/contrib"
PLUGINS = "usr/libexec/docker/cli-plugins"
UNITS = "lib/systemd/system"


@dataclass(frozen=True)
class Recipe:
    """One package: target path -> path in the unpacked Debian packages, control fields, units, conffiles."""

    files: dict[str, str]
    fields: dict[str, str]
    summary: str
    units: tuple[str, ...] = ()
    conffiles: tuple[str, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)
    on_first_install: str = ""


def recipes(major: int) -> dict[str, Recipe]:
    """The packages of an engine by its major version: relations changed between 26 and 28."""
    new = major >= 28
    old_names = "docker (<< 1.5~), docker-engine, "
    cli_conflicts = old_names + ("docker.io" if new else "docker-engine-cs, docker.io, lxc-docker")
    return {
        "docker-ce": Recipe(
            files={
                "usr/bin/dockerd": "usr/sbin/dockerd",
                "usr/bin/docker-proxy": "usr/sbin/docker-proxy",
                "usr/libexec/docker/docker-init": "usr/bin/tini-static",
                f"{UNITS}/docker.service": "usr/lib/systemd/system/docker.service",
                f"{UNITS}/docker.socket": "usr/lib/systemd/system/docker.socket",
                "etc/default/docker": "etc/default/docker",
            },
            fields={
                "Pre-Depends": "init-system-helpers (>= 1.54~)",
                "Depends": f"containerd.io (>= {'1.7.27' if new else '1.6.24'}), docker-ce-cli, iptables, "
                "libc6 (>= 2.34), libsystemd0",
                "Recommends": "apparmor, ca-certificates, docker-ce-rootless-extras, git, "
                + ("" if new else "libltdl7, ")
                + "pigz, procps, xz-utils",
                "Suggests": "cgroupfs-mount | cgroup-lite" + (", kmod" if new else ", aufs-tools"),
                "Conflicts": old_names + "docker.io",
                "Replaces": "docker-engine" + (", docker-ce-cli (<< 5:28.0.0)" if new else ""),
            },
            summary="Docker: the open-source application container engine",
            units=("docker.service", "docker.socket"),
            conffiles=("/etc/default/docker",),
            on_first_install="getent group docker >/dev/null || groupadd --system docker",
        ),
        "docker-ce-cli": Recipe(
            files={
                "usr/bin/docker": "usr/bin/docker",
                "usr/share/bash-completion/completions/docker": "usr/share/bash-completion/completions/docker",
            },
            fields={
                "Depends": "libc6 (>= 2.34)",
                "Recommends": "docker-buildx-plugin, docker-compose-plugin",
                "Conflicts": cli_conflicts,
                "Replaces": "docker-ce (<< 5:0)",
                "Breaks": "docker-ce (<< 5:0)",
            },
            summary="Docker CLI: the open-source application container engine",
        ),
        "docker-ce-rootless-extras": Recipe(
            files={
                "usr/bin/rootlesskit": "usr/bin/rootlesskit",
                "usr/bin/rootlesskit-docker-proxy": "usr/bin/rootlesskit-docker-proxy",
                "usr/bin/dockerd-rootless.sh": f"{CONTRIB}/dockerd-rootless.sh",
                "usr/bin/dockerd-rootless-setuptool.sh": f"{CONTRIB}/dockerd-rootless-setuptool.sh",
            },
            fields={
                "Depends": "dbus-user-session, libc6 (>= 2.34)",
                "Enhances": "docker-ce",
                "Conflicts": "rootlesskit",
                "Replaces": "rootlesskit",
                "Breaks": "rootlesskit",
            },
            summary="Rootless support for Docker.",
        ),
        "containerd.io": Recipe(
            files={
                **{f"usr/bin/{n}": f"usr/bin/{n}" for n in ("containerd", "containerd-shim-runc-v2", "ctr")},
                "usr/bin/runc": "usr/sbin/runc",
                f"{UNITS}/containerd.service": "usr/lib/systemd/system/containerd.service",
            },
            texts={"etc/containerd/config.toml": 'disabled_plugins = ["cri"]\n'},
            fields={
                "Depends": "libc6 (>= 2.34), libseccomp2 (>= 2.5.0)",
                "Provides": "containerd, runc",
                "Conflicts": "containerd, runc",
                "Replaces": "containerd, runc",
            },
            summary="An open and reliable container runtime",
            units=("containerd.service",),
            conffiles=("/etc/containerd/config.toml",),
        ),
        "docker-compose-plugin": Recipe(
            files={f"{PLUGINS}/docker-compose": f"{PLUGINS}/docker-compose"},
            fields={
                **({"Recommends": "docker-buildx-plugin (>= 0.17.0)"} if new else {}),
                "Enhances": "docker-ce-cli",
            },
            summary="Docker Compose (V2) plugin for the Docker CLI.",
        ),
        "docker-buildx-plugin": Recipe(
            files={f"{PLUGINS}/docker-buildx": f"{PLUGINS}/docker-buildx"},
            fields={"Replaces": "docker-ce-cli", "Enhances": "docker-ce-cli"},
            summary="Docker Buildx plugin extends build capabilities with BuildKit.",
        ),
    }


# Docker Desktop is no part of the apt repository: the vendor offers it as one file. Nothing in it works; it is there so
# that a host can look as if it had it.
DESKTOP_VERSION = "4.50.0-209931"
DESKTOP = Recipe(
    files={},
    texts={
        "opt/docker-desktop/bin/com.docker.backend": "#!/bin/sh\nexec sleep infinity\n",
        "usr/lib/systemd/user/docker-desktop.service": "[Unit]\nDescription=Docker Desktop\n\n"
        "[Service]\nExecStart=/opt/docker-desktop/bin/com.docker.backend\n\n"
        "[Install]\nWantedBy=graphical-session.target\n",
    },
    fields={"Depends": "docker-ce-cli"},
    summary="Docker Desktop",
)


def lay_out(recipe: Recipe, unpacked: list[Path], tree: Path) -> None:
    """Put a package's files where it installs them; `unpacked` are looked through in order."""
    for target, source in recipe.files.items():
        found = next(folder / source for folder in unpacked if (folder / source).exists())
        path = tree / target
        path.parent.mkdir(parents=True, exist_ok=True)
        if target.startswith(UNITS):
            path.write_text(vendor_unit(found.read_text(encoding="utf-8")), encoding="utf-8")
        else:
            path.hardlink_to(found.resolve())
            path.chmod(0o755 if "/bin/" in f"/{target}" or "libexec" in target else 0o644)
    for target, text in recipe.texts.items():
        path = tree / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755 if "/bin/" in target else 0o644)


def vendor_unit(text: str) -> str:
    """Debian's unit as the vendor writes it: other path, no settings file."""
    kept = [line for line in text.splitlines() if not line.startswith("EnvironmentFile=")]
    return "\n".join(kept).replace("/usr/sbin/dockerd", "/usr/bin/dockerd").replace(" $DOCKER_OPTS", "") + "\n"


def scripts(recipe: Recipe) -> dict[str, str]:
    """What debhelper makes of packages with units: enabled and started at once, unless masked; restarted by an upgrade
    where they run; stopped by a removal, forgotten by a purge."""
    if not recipe.units:
        return {}
    units = " ".join(recipe.units)
    first = f'if [ "$1" = configure ] && [ -z "$2" ]; then\n\t{recipe.on_first_install or ":"}\nfi\n'
    return {
        "postinst": f"""#!/bin/sh
set -e
{first}case "$1" in configure | abort-upgrade | abort-deconfigure | abort-remove)
	for unit in {units}; do
		deb-systemd-helper unmask "$unit" >/dev/null || true
		if deb-systemd-helper --quiet was-enabled "$unit"; then
			deb-systemd-helper enable "$unit" >/dev/null || true
		else
			deb-systemd-helper update-state "$unit" >/dev/null || true
		fi
	done
	if [ -d /run/systemd/system ]; then
		systemctl --system daemon-reload >/dev/null || true
		if [ -n "$2" ]; then action=restart; else action=start; fi
		deb-systemd-invoke "$action" {units} >/dev/null || true
	fi
	;;
esac
""",
        "prerm": f"""#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
	deb-systemd-invoke stop {units} >/dev/null || true
fi
""",
        "postrm": f"""#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
	systemctl --system daemon-reload >/dev/null || true
fi
if [ "$1" = purge ] && [ -x /usr/bin/deb-systemd-helper ]; then
	deb-systemd-helper purge {units} >/dev/null || true
fi
""",
    }
