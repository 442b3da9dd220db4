"""`forethought doctor`: what this installation can do, and what to do about what it cannot.

What is wrong with an environment is for `envs.examination`, the doctor behind `forethought check-env`.
"""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..envs import examination, rendering
from ..envs.spec import EnvOptions
from . import provenance
from .compilation import cpp_compiler, fault_of_compiler
from .precision import name_of, planning
from .world_model import fused


@dataclass(frozen=True)
class Finding:
    """One check: `ok` is True, False (a fault) or None (worth knowing)."""

    ok: bool | None
    name: str
    text: str


_EXTRAS = {
    "gymnasium_robotics": ("gymnasium-robotics", "robotics"),
    "ogbench": ("OGBench", "robotics"),
    "tensorboard": ("TensorBoard", "track"),
    "minari": ("Minari", "interop"),
    "pyarrow": ("pyarrow", "interop"),
    "faiss": ("faiss", "ann"),
    "huggingface_hub": ("Hugging Face Hub", "hub"),
    "mcap": ("MCAP", "logs"),
    "optuna": ("Optuna", "sweep"),
    "stable_worldmodel": ("stable-worldmodel", "worldmodel"),
}


def examine() -> list[Finding]:
    """Look at versions, processor, rendering, extras and disk."""
    versions = ", ".join(f"{k} {v}" for k, v in provenance.versions().items())
    findings = [Finding(True, "versions", versions), _processor(), _compiler(), _accelerator(), _rendering()]
    for module, (name, extra) in _EXTRAS.items():
        found = importlib.util.find_spec(module) is not None
        hint = "installed" if found else f"not installed: pip install 'forethought[{extra}]'"
        findings.append(Finding(found or None, name, hint))
    findings.append(_disk(Path.cwd()))
    return findings


def _processor() -> Finding:
    machine = provenance.machine()
    text = f"{machine['cpu']}, {machine['cores']} cores, {torch.get_num_threads()} threads in use"
    found = [planning("auto", "auto", torch.device("cpu"), purpose) for purpose in ("goal", "reward")]
    goal, reward = (name_of(dtype) for dtype, _ in found)
    dtypes = goal if goal == reward else f"{goal} toward goals and {reward} for rewards"
    how = "by networks of one call each" if found[0][1] else "without fused networks"
    return Finding(True, "processor", f"{text}; plans in {dtypes}, {how}")


def _compiler() -> Finding:
    path = cpp_compiler()
    if path is not None:
        for fault in filter(None, (fault_of_compiler(torch.device("cpu")), fused.fault())):
            return Finding(None, "compiler", f"{path} cannot be used for everything, planning takes longer: {fault}")
        return Finding(True, "compiler", f"{path}, for agent.fused, agent.compile and learner.compile")
    if fused.compiler() is not None and fused.fault() is None:
        return Finding(None, "compiler", "ziglang, for agent.fused; g++ or clang++ would do more")
    advice = "install g++ or clang++, or pip install 'forethought[compiler]'"
    return Finding(None, "compiler", f"none: planning takes longer without; {advice}")


def _accelerator() -> Finding:
    if torch.cuda.is_available():
        return Finding(True, "accelerator", f"{torch.cuda.get_device_name()} (device=cuda)")
    return Finding(None, "accelerator", "none: everything runs on the CPU")


def _rendering() -> Finding:
    try:
        backend = rendering.require()
    except rendering.RenderingUnavailable as error:
        return Finding(None, "rendering", str(error))
    return Finding(True, "rendering", f"OpenGL by {backend}")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / 2**30
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding(False, "disk", f"{folder} cannot be written: {os.strerror(error.errno or 0)}")
    return Finding(free > 1, "disk", f"{free:.0f} GiB free in {folder}")


def report(
    env_id: str, options: EnvOptions, seed: int, steps: int, findings: Sequence[examination.Finding]
) -> dict[str, Any]:
    """What `forethought check-env` found, as plain JSON values with what is needed to find it again."""
    return {
        "env": env_id,
        "env_options": asdict(options),
        "seed": seed,
        "steps": steps,
        "worst": examination.worst(findings),
        "findings": [asdict(finding) for finding in findings],
        "command": provenance.command(),
        "versions": provenance.versions(),
        "machine": provenance.machine(),
    }
