"""Where a result comes from: command, commit, versions, machine. Written into every run and result file."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__

_PACKAGES = (
    "torch",
    "numpy",
    "gymnasium",
    "mujoco",
    "dm-control",
    "lmdb",
    "gymnasium-robotics",
    "ogbench",
    "stable-worldmodel",
)


def versions() -> dict[str, str]:
    """Versions of Python, of this package, and of the packages that results depend on (those installed)."""
    found = {"forethought": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Processor, cores, memory in GiB and operating system; no host name."""
    cpu = platform.processor() or platform.machine()
    memory = None
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (OSError, ValueError):
        pass
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": memory, "system": platform.system()}


def commit() -> str | None:
    """Commit of the source tree, with `+changes` where it is not clean; None outside a checkout."""
    root = Path(__file__).resolve().parents[1]

    def run(*args: str) -> str:
        command = ["git", "-C", str(root), *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        if Path(run("rev-parse", "--show-toplevel")).resolve() != root:
            return None
        head = run("rev-parse", "HEAD")
        return f"{head}+changes" if run("status", "--porcelain", "--untracked-files=no") else head
    except (OSError, subprocess.SubprocessError):
        return None


def command() -> str:
    """The command line as the user would type it again, quoted for a shell."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def of_result(command_line: str | None = None) -> dict[str, Any]:
    """All of it, and when, as result files hold it; None takes the command of this process."""
    return {
        "command": command_line or command(),
        "commit": commit(),
        "versions": versions(),
        "machine": machine(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
