"""Agents on the Hugging Face Hub, by its mixin; folders on disk work the same without a network."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from .agent import Agent, AgentOptions
from .build import load_agent
from .export import FILES, ExportError, export_run
from .memory.store import EpisodeStore

if TYPE_CHECKING or importlib.util.find_spec("huggingface_hub"):
    from huggingface_hub import ModelHubMixin, snapshot_download
else:

    def _missing(*_: Any, **__: Any) -> Any:
        raise ExportError("sharing agents needs huggingface_hub: pip install 'forethought[hub]'")

    class ModelHubMixin:
        """Stands in for the mixin where its package is not installed."""

        def __init_subclass__(cls, **_: Any) -> None:
            super().__init_subclass__()

        from_pretrained = classmethod(_missing)
        save_pretrained = push_to_hub = _missing

    snapshot_download = _missing


TAGS = ["forethought", "world-model", "planning", "robotics"]


class PretrainedAgent(Agent, ModelHubMixin, library_name="forethought", tags=TAGS):  # type: ignore[misc, call-arg, unused-ignore]
    """A trained agent that can be saved, shared and loaded.

    `PretrainedAgent.from_pretrained("user/reacher")` loads it from the Hub, or from a folder that `forethought export`
    wrote; `save_pretrained(folder)` and `push_to_hub("user/reacher")` go the other way. Nothing is unpickled, and
    nothing beyond the files of an export is downloaded.

    Args: as `load_agent`.
    """

    def __init__(
        self,
        run: str | Path,
        checkpoint: str = "best",
        *,
        planner: Any = None,
        objective: Any = None,
        options: AgentOptions | None = None,
        memory: EpisodeStore | str | Path | None = None,
        device: str = "cpu",
        seed: int = 0,
    ) -> None:
        self.run, self.checkpoint = Path(run).expanduser(), checkpoint
        agent = load_agent(
            self.run, checkpoint, planner=planner, objective=objective, options=options, memory=memory, device=device,
            seed=seed,
        )  # fmt: skip
        super().__init__(
            agent.model, agent.planner, agent.objective, agent.options, agent.generator, agent.configurator, agent.index
        )

    @override
    def _save_pretrained(self, save_directory: Path) -> None:
        export_run(self.run, save_directory, self.checkpoint)

    @classmethod
    @override
    def _from_pretrained(
        cls, *, model_id: str, revision: str | None, cache_dir: str | Path | None, force_download: bool,
        local_files_only: bool, token: str | bool | None, **options: Any,
    ) -> "PretrainedAgent":  # fmt: skip
        folder = Path(model_id).expanduser()
        if not folder.is_dir():
            folder = Path(
                snapshot_download(
                    model_id, revision=revision, cache_dir=cache_dir, force_download=force_download,
                    local_files_only=local_files_only, token=token, allow_patterns=list(FILES),
                )
            )  # fmt: skip
        return cls(folder, **options)
