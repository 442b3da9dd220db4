"""Agents in the layout of the Hub, without a network."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from forethought import load_agent


@pytest.fixture
def pretrained() -> Any:
    pytest.importorskip("huggingface_hub", reason="needs the extra hub")
    from forethought import PretrainedAgent

    return PretrainedAgent


def decisions(agent: Any) -> list[torch.Tensor]:
    obs = {k: torch.full((2, *a.shape), 0.1, dtype=getattr(torch, a.dtype)) for k, a in agent.model.spec.obs.items()}
    goal, carry, actions = torch.zeros(2, agent.model.goal_dim), agent.init(2), []
    for _ in range(3):
        action, carry, _ = agent.act(obs, carry, goal)
        actions.append(action)
    return actions


def test_saved_and_loaded_it_acts_the_same_to_the_bit(pretrained: Any, small_run: Path, tmp_path: Path) -> None:
    agent = pretrained(small_run)
    agent.save_pretrained(tmp_path / "out")
    loaded = pretrained.from_pretrained(tmp_path / "out")
    assert isinstance(loaded, pretrained)
    for expected, action in zip(decisions(load_agent(small_run)), decisions(loaded), strict=True):
        assert torch.equal(expected, action)
    assert {"best.safetensors", "config.json", "README.md"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert (tmp_path / "out" / "README.md").read_text().startswith('---\nlibrary_name: "forethought"\n')


def test_options_of_loading_go_through(pretrained: Any, small_run: Path, tmp_path: Path) -> None:
    pretrained(small_run, "last").save_pretrained(tmp_path / "out")
    loaded = pretrained.from_pretrained(tmp_path / "out", seed=5)
    assert loaded.generator.initial_seed() == 5
    expected = decisions(load_agent(small_run, "last", seed=5))
    assert all(map(torch.equal, expected, decisions(loaded)))


def test_what_is_pushed_is_the_export(
    pretrained: Any, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    sent: dict[str, Any] = {}

    class Repo:
        repo_id = "user/arm"

    def upload(self: Any, *, folder_path: Any, **about: Any) -> str:
        sent.update(about, files=sorted(path.name for path in Path(folder_path).iterdir()))
        return "sent"

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, **about: Repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    assert pretrained(small_run).push_to_hub("user/arm") == "sent"
    assert sent["repo_id"] == "user/arm"
    assert {"README.md", "best.safetensors", "config.json"} <= set(sent["files"])


def test_a_repository_is_fetched_with_the_files_of_an_export_alone(
    pretrained: Any, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import hub_mixin

    from forethought.agent import hub

    pretrained(small_run).save_pretrained(tmp_path / "cache")
    asked: dict[str, Any] = {}

    def fetch(repo_id: str, **about: Any) -> str:
        asked.update(about, repo_id=repo_id)
        return str(tmp_path / "cache")

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    monkeypatch.setattr(hub_mixin, "hf_hub_download", lambda *a, **k: str(tmp_path / "cache" / "config.json"))
    loaded = pretrained.from_pretrained("user/arm", revision="v1", local_files_only=True)
    assert loaded.run == tmp_path / "cache"
    assert loaded.checkpoint == "best"
    assert (asked["repo_id"], asked["revision"], asked["local_files_only"]) == ("user/arm", "v1", True)
    assert asked["allow_patterns"] == list(hub.FILES)


def test_without_the_package_it_says_which_extra(small_run: Path) -> None:
    code = (
        "import sys\nsys.modules['huggingface_hub'] = None\nimport importlib.util\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'huggingface_hub' else find(name, *a)\n"
        "import forethought\nagent = forethought.PretrainedAgent(sys.argv[1])\n"
        "for call in (lambda: forethought.PretrainedAgent.from_pretrained('x'), lambda: agent.push_to_hub('x')):\n"
        "    try:\n        call()\n    except forethought.ForethoughtError as error:\n        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(small_run)], capture_output=True, text=True, check=True)
    assert done.stdout.count("pip install 'forethought[hub]'") == 2
