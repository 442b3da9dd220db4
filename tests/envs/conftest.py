"""Where stable-worldmodel is installed, it is imported before anything draws: CUDA builds of torch crash otherwise."""

import contextlib
import importlib.util

from forethought.envs.worldmodel_adapter import register

if importlib.util.find_spec("stable_worldmodel") is not None:
    with contextlib.suppress(Exception):
        register()
