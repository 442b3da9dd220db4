"""The command line: help, listing, memory, errors in one line, exit codes, and output with and without a terminal."""

import errno
import io
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from forethought import __version__
from forethought.agent.cli import ConsoleProgress, build_parser, flags_last, main
from forethought.agent.memory.commands import summarize
from forethought.agent.memory.store import EpisodeStore, MemoryOptions
from forethought.agent.training.checkpoint import load_checkpoint

COMMANDS = [
    "quickstart", "collect", "train", "eval", "drive", "goal", "export", "bench", "envs", "doctor",
    "check-env", "check-planner", "memory",
]  # fmt: skip
ENV = "env=forethought/PointMass-v0"


def assert_error(done: Any, *parts: str) -> None:
    """Exit code 2, one plain line on stderr, no traceback anywhere."""
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert "Traceback" not in done.err + done.out
    for part in parts:
        assert part in done.err


# -- help and usage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples_that_can_be_parsed(cli: Any, command: str) -> None:
    done = cli(command, "--help")
    assert done.code == 0
    examples = [line.strip() for line in done.out.splitlines() if line.startswith(f"  forethought {command}")]
    assert len(examples) >= (1 if command == "doctor" else 3)  # which takes no arguments
    for example in examples:
        words = example.split("  ")[0].split()[1:]
        assert build_parser().parse_args(flags_last(words)).command == command


def test_alone_it_says_what_there_is(cli: Any) -> None:
    done = cli()
    assert (done.code, done.err) == (0, "")
    for command in COMMANDS:
        assert f"\n    {command}" in done.out
    assert cli("--help").out == done.out
    assert cli("--version").out == f"forethought {__version__}\n"


def test_usage_errors(cli: Any) -> None:
    assert_error(cli("trian"), "unknown command 'trian': did you mean train?")
    assert_error(cli("memory", "lst", "."), "unknown action 'lst'", "ls")
    assert_error(cli("memory", "ls"), "required: dir", "forethought memory ls --help")
    assert_error(cli("memory"), "required: action", "forethought memory --help")
    assert_error(cli("memory", "ls", ".", "--limit", "few"), "--limit", "few")
    assert_error(cli("memory", "ls", ".", "--limit", "-3"), "--limit: must be at least 0, got -3")
    assert_error(cli("memory", "forget", "."), "one of the arguments --episodes --env --before is required")
    assert_error(cli("memory", "forget", ".", "--episodes", "3", "--before", "4"), "not allowed with argument")
    assert_error(cli("memory", "forget", ".", "--episodes", "3,x"), "numbers and ranges like 3,5-9, got '3,x'")
    assert_error(cli("memory", "forget", ".", "--episodes", "9-5"), "must not end before it begins, got 9-5")
    assert_error(cli("train", "--speed", "3"), "unrecognized arguments: --speed")
    assert_error(cli("eval"), "run=runs/…")
    assert_error(cli("eval", "runs/x"), "expected key=value, got 'runs/x'")
    assert_error(cli("quickstart", "sed=3"), "key of quickstart", "'sed': did you mean seed?")
    assert_error(cli("quickstart", "preset=default"), "unknown key of quickstart")


def test_debug_shows_the_traceback(cli: Any) -> None:
    for arguments in (["train", "--debug", "steps=x"], ["train", "steps=x", "--debug"]):
        with pytest.raises(Exception, match="steps: Value 'x'"):
            main(arguments)


@pytest.mark.parametrize("command", ["train", "eval"])
def test_options_are_listed_one_per_line(cli: Any, command: str) -> None:
    done = cli(command, "--options", "planner=mppi")
    assert done.code == 0
    lines = dict(line.split("  # ")[0].split("=", 1) for line in done.out.splitlines())
    assert "planner.temperature" in lines
    assert "objective.cost" in lines
    assert ("training.updates" in lines) == (command == "train")
    assert ("evaluation.episodes" in lines) == (command == "eval")
    assert all(line.split("  # ")[1] for line in done.out.splitlines())
    assert_error(cli(command, "--options", "planner=mpi"), "did you mean mppi")


# -- environments and the installation --------------------------------------------------------------------------------


def test_environments_are_listed_and_filtered(cli: Any) -> None:
    own = cli("envs", "forethought")
    assert own.code == 0
    assert "forethought/PointMass-v0" in own.out
    assert "HalfCheetah" not in own.out
    found = cli("envs", "reacher")
    assert "forethought/Reacher-v0" in found.out
    assert "dm_control/reacher-easy-v0" in found.out
    assert "PointMass" not in found.out
    assert len(cli("envs").out.splitlines()) > len(found.out.splitlines()) > 3
    assert_error(cli("envs", "teapot"), "no environment id contains 'teapot'")


def test_an_environment_is_examined(cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    good = cli("check-env", "forethought/PointMass-v0", "env_options.max_episode_steps=9", "--steps", "20")
    assert good.code == 0
    assert "observations position float32[2], velocity float32[2]; 2 actions; goals by observation" in good.out
    assert "9 decisions, by the option" in good.out
    assert re.search(r"\d+ checks: \d+ ok, \d+ warning, 0 error", good.out)
    bad = cli("check-env", "CartPole-v1", "--steps", "20", "--json", tmp_path / "found.json")
    assert bad.code == 1
    assert re.search("error .*action space .*must be a Box", bad.out)
    assert "→ " in bad.out
    written = json.loads((tmp_path / "found.json").read_text())
    printed = cli("check-env", "CartPole-v1", "--steps", "20", "--json", "-")
    assert printed.code == 1
    assert [f["level"] for f in json.loads(printed.out)["findings"]] == [f["level"] for f in written["findings"]]
    unknown = cli("check-env", "forethought/PointMas-v0")
    assert unknown.code == 1
    assert "did you mean forethought/PointMass-v0" in unknown.out


def test_a_strict_examination_minds_warnings(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from forethought.envs import examination

    for level, lenient, strict in (("ok", 0, 0), ("skipped", 0, 0), ("warning", 0, 1), ("error", 1, 1)):
        finding = examination.Finding("x", level, "y")  # type: ignore[arg-type]
        monkeypatch.setattr(examination, "examine", lambda *_, finding=finding, **__: [finding])
        assert cli("check-env", "Pendulum-v1").code == lenient
        assert cli("check-env", "Pendulum-v1", "--strict").code == strict


def test_an_examination_takes_options_of_the_environment_alone(cli: Any) -> None:
    assert_error(cli("check-env", "Pendulum-v1", "planner=cem"), "env_options.planner=…", "got 'planner'")
    assert_error(cli("check-env", "Pendulum-v1", "env_options.hid=[x]"), "did you mean env_options.hide")
    assert_error(cli("check-env", "Pendulum-v1", "--steps", "0"), "steps must be at least 1")
    assert_error(cli("doctor", "--env", "Pendulum-v1"), "unrecognized arguments: --env")


def test_doctor_names_the_extra_that_is_missing(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setenv("COLUMNS", "300")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "ogbench" else find(name, *a))
    done = cli("doctor")
    assert done.code == 0
    assert "not installed: pip install 'forethought[robotics]'" in done.out


# -- planners ---------------------------------------------------------------------------------------------------------


def test_a_planner_is_checked(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    done = cli("check-planner", "cem", "horizon=3", "num_samples=24")
    assert done.code == 0
    assert done.out.endswith("cem: keeps the contract of planners\n")
    assert "required" in done.out
    assert "optional" in done.out
    report = json.loads(cli("check-planner", "cem", "horizon=3", "num_samples=24", "--json", "-").out)
    assert report["passed"]
    assert report["options"]["horizon"] == 3
    assert {finding["outcome"] for finding in report["findings"]} == {"passed"}
    assert_error(cli("check-planner", "cen"), "unknown planner 'cen': did you mean", "cem")
    assert_error(cli("check-planner", "cem", "horizn=3"), "did you mean planner.horizon")
    assert_error(cli("check-planner", "cem", "horizon"), "key=value")
    assert_error(cli("check-planner", "cem", "horizon=0"), "horizon must be at least 1, got 0")
    assert_error(cli("check-planner"), "required: name")


def test_a_broken_planner_is_a_fault(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from forethought.planners import CEM

    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(CEM, "advance", lambda self, state, steps: self.init(len(state.mean)))
    done = cli("check-planner", "cem", "horizon=3", "num_samples=24")
    assert done.code == 1
    assert "fault  warm_start" in done.out
    assert "cem: 1 of 21 promises are not kept" in done.out
    report = cli("check-planner", "cem", "horizon=3", "num_samples=24", "--json", "-")
    assert report.code == 1
    assert not json.loads(report.out)["passed"]


# -- memory -----------------------------------------------------------------------------------------------------------


def test_memory_is_listed_inspected_and_verified(cli: Any, small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    memory = small_run / "memory"
    listed = cli("memory", "ls", memory)
    assert listed.code == 0
    assert "8 episodes, 160 transitions\n" in listed.out
    assert listed.out.count("forethought/PointMass-v0") == 8
    short = cli("memory", "ls", memory, "--limit", "3")
    assert short.out.count("forethought/PointMass-v0") == 3
    assert "the last 3 are shown" in short.out
    assert cli("memory", "ls", memory, "--limit", "0").out == listed.out
    stats = json.loads(cli("memory", "inspect", memory).out)
    assert (stats["episodes"], stats["transitions"]) == (8, 160)
    episode = json.loads(cli("memory", "inspect", memory, "--episode", "5").out)
    assert (episode["episode_id"], episode["length"], episode["meta"]["policy"]) == (5, 20, "plan")
    assert cli("memory", "verify", memory).out == f"{memory}: 8 episodes, 0 problems\n"


def test_a_memory_that_gave_up_episodes_says_so(cli: Any, small_run: Path, tmp_path: Path) -> None:
    memory = shutil.copytree(small_run / "memory", tmp_path / "memory")
    with EpisodeStore.open(memory, "a", options=MemoryOptions(max_bytes=1)) as store:
        store.append(store.get(0), spec=store.specs[0])
    assert cli("memory", "ls", memory).out.endswith("1 episodes, 20 transitions, 8 others were given up\n")
    assert json.loads(cli("memory", "inspect", memory).out)["given_up"] == 8
    assert_error(cli("memory", "inspect", memory, "--episode", "3"), "episode 3 was given up")
    assert cli("memory", "verify", memory).out == f"{memory}: 1 episodes, 0 problems\n"


def test_numbers_of_other_time_limits_are_not_mixed(small_run: Path, tmp_path: Path) -> None:
    memory = shutil.copytree(small_run / "memory", tmp_path / "memory")
    with EpisodeStore.open(memory, "a") as store:
        before = summarize(store)["environments"]
        episode, spec = store.get(0), store.specs[0]
        episode.success[:] = True
        store.append(episode, spec=replace(spec, max_episode_steps=spec.max_episode_steps + 1))
        after = summarize(store)["environments"]
    assert after[:-1] == before
    assert before[0]["success_share"] < after[-1]["success_share"] == 1.0


def test_memory_in_numbers(cli: Any, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = shutil.copytree(small_run / "memory", tmp_path / "memory")
    with EpisodeStore.open(memory, "a") as store:
        spec = store.specs[0]
        for day in (2, 1):
            episode = store.get(0)
            episode.success[:] = True
            store.append(replace(episode, meta={"time": f"2030-01-0{day}"}), spec=replace(spec, env_id="Other-v0"))
        store.annotate({"graph/1": b"12345"})
        infos = [store.info(i) for i in range(8)]
    found = json.loads(cli("memory", "stats", memory, "--json").out)
    plain = json.loads(cli("memory", "inspect", memory).out)
    assert {k: v for k, v in found.items() if k not in ("environments", "notes")} == {
        k: v for k, v in plain.items() if k != "environments"
    }
    first, other = found["environments"]
    assert first == {
        **plain["environments"][0],
        "success_share": np.mean([info["success"] for info in infos]),
        "mean_return": pytest.approx(np.mean([info["total_reward"] for info in infos])),
        "first_time": None,
        "last_time": None,
    }
    assert (other["success_share"], other["first_time"], other["last_time"]) == (1.0, "2030-01-01", "2030-01-02")
    assert found["notes"] == [{"name": "graph/1", "bytes": 5}]
    monkeypatch.setenv("COLUMNS", "200")
    table = cli("memory", "stats", memory).out
    for part in ("Other-v0", "100.0%", "2030-01-02", "graph/1", "10 episodes (0 given up), 200 transitions"):
        assert part in table


def test_episodes_are_forgotten_and_the_file_compacted(
    cli: Any, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = shutil.copytree(small_run / "memory", tmp_path / "memory")
    assert_error(cli("memory", "forget", memory, "--episodes", "6-8"), "episodes must be below 8, got 8")
    assert_error(cli("memory", "forget", memory, "--env", "PointMass"), "did you mean forethought/PointMass-v0")
    assert_error(cli("memory", "compact", tmp_path / "none"), "there is no episode store in")
    assert_error(cli("memory", "forget", tmp_path / "none", "--before", "3", "--yes"), "there is no episode store in")
    assert not (tmp_path / "none").exists()

    def left() -> list[int]:
        with EpisodeStore.open(memory) as store:
            return store.ids().tolist()

    dry = cli("memory", "forget", memory, "--episodes", "1,3-4", "--dry-run").out
    assert dry.startswith(f"{memory}: would forget 3 of 8 episodes (60 transitions, ")
    for answer in ("", "n\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        asked = cli("memory", "forget", memory, "--episodes", "1,3-4")
        assert (asked.code, asked.out.splitlines()[-1][-40:]) == (1, "nothing was forgotten (--yes does not ask)"[-40:])
    assert left() == list(range(8))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert "forgot 3 episodes, 5 are left" in cli("memory", "forget", memory, "--episodes", "1,3-4").out
    assert left() == [0, 2, 5, 6, 7]
    assert "forgot 2 episodes" in cli("memory", "forget", memory, "--before", "5", "--yes").out
    assert left() == [5, 6, 7]
    assert cli("memory", "ls", memory).out.endswith("3 episodes, 60 transitions, 5 others were given up\n")
    before = (memory / "data.mdb").stat().st_size
    said = cli("memory", "compact", memory).out
    assert said.startswith(f"{memory}: {before} bytes before, {(memory / 'data.mdb').stat().st_size} after (")
    assert left() == [5, 6, 7]
    assert "forgot 3 episodes" in cli("memory", "forget", memory, "--env", "forethought/PointMass-v0", "--yes").out
    assert cli("memory", "verify", memory).out == f"{memory}: 0 episodes, 0 problems\n"
    assert "would forget 0 of 0" in cli("memory", "forget", memory, "--before", "5", "--yes").out
    assert cli("memory", "stats", memory).code == 0


def test_memory_that_is_missing_damaged_or_foreign(cli: Any, small_run: Path, tmp_path: Path) -> None:
    assert_error(cli("memory", "ls", tmp_path), "there is no episode store in")
    assert_error(cli("memory", "inspect", small_run / "memory", "--episode", "99"), "between 0 and 7, got 99")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "data.mdb").write_text("not a database")
    assert_error(cli("memory", "ls", tmp_path / "foreign"), "is no episode store")
    memory = shutil.copytree(small_run / "memory", tmp_path / "memory")
    with EpisodeStore.open(memory) as store:
        actions = store.get(2).actions.tobytes()
    whole = (memory / "data.mdb").read_bytes()
    assert actions in whole
    data = whole.replace(actions, bytes([actions[0] ^ 1]) + actions[1:])  # in freed pages too
    (memory / "data.mdb").write_bytes(data)
    verified = cli("memory", "verify", memory)
    assert verified.code == 1
    assert "episode 2: " in verified.out
    assert "8 episodes, 1 problems" in verified.out
    (memory / "data.mdb").write_bytes(data[:9000])
    assert_error(cli("memory", "verify", memory), "truncated")


def test_collect_fills_a_memory_and_says_where(cli: Any, small: list[str], tmp_path: Path) -> None:
    done = cli("collect", *small, f"out={tmp_path / 'my data'}")
    assert done.code == 0
    assert done.out.splitlines()[-1] == f"{tmp_path / 'my data' / 'memory'}: 8 episodes, 160 transitions"


# -- training and evaluating ------------------------------------------------------------------------------------------


def test_train_prints_plain_lines_without_a_terminal(cli: Any, small: list[str], tmp_path: Path) -> None:
    out = tmp_path / ("a folder with a very long name " * 4).strip()
    done = cli("train", *small, f"out={out}")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[-1] == f"trained: {out}"
    assert "collect: 80/160 random" in lines
    assert any(line.startswith("train: 30/30 prediction 0.") for line in lines)
    assert any(line.startswith("phase 2: ") and line.endswith(", 2 validation episodes") for line in lines)
    assert "\x1b" not in done.out
    again = cli("train", *small, f"out={out}")
    assert again.code == 0
    assert again.out.splitlines() == ["resumed at update 30, 160 decisions", f"trained: {out}"]


def test_a_preset_is_found_and_named(cli: Any, small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("forethought.agent.jobs.train.train", lambda config, progress: seen.append(config) or Path("x"))
    assert cli("train", *small[1:], "out=x").out.startswith("preset=pointmass: tuned for forethought/PointMass-v0")
    assert cli("train", *small, "out=x").out == ""
    assert seen[0].training.updates == seen[1].training.updates == 30


def test_progress_is_a_bar_on_a_terminal() -> None:
    file = io.StringIO()
    with ConsoleProgress(Console(file=file, force_terminal=True, width=120)) as progress:
        progress.message("hello [bold]there[/bold]")
        for done in (1, 2, 4):
            progress.advance("train", done, 4, "prediction 0.1")
    assert "━" in file.getvalue()
    assert "4/4" in file.getvalue()
    assert "hello [bold]there[/bold]" in file.getvalue()


def test_progress_is_a_line_per_tenth_elsewhere() -> None:
    file = io.StringIO()
    with ConsoleProgress(Console(file=file)) as progress:
        for done in range(1, 101):
            progress.advance("train", done, 100, "[x]")
    assert file.getvalue().splitlines()[0] == "train: 1/100 [x]"
    assert file.getvalue().splitlines()[-1] == "train: 100/100 [x]"
    assert len(file.getvalue().splitlines()) == 11


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "env must be given"),
        ([ENV, "steps=many"], "steps: Value 'many' of type 'str' could not be converted to Integer"),
        ([ENV, "stepz=3"], "unknown config key 'stepz': did you mean steps?"),
        ([ENV, "planner=icen"], "unknown planner 'icen'"),
        ([ENV, "planner.horizon=0"], "horizon must be at least 1, got 0"),
        ([ENV, "objective=rewards"], "unknown objective 'rewards': did you mean reward?"),
        ([ENV, "preset=nothing"], "unknown preset 'nothing'"),
        ([ENV, "threads=0"], "threads must be at least 1, got 0"),
        ([ENV, "device=cuda:77"], "device must be one that PyTorch can use here, such as cpu, got 'cuda:77'"),
        ([ENV, "device=gpu"], "got 'gpu'"),
        ([ENV, "out=/proc/nothing"], "out=/proc/nothing cannot be made"),
        ([ENV, "out=/proc/self", "training.num_envs=1"], "/proc/self"),
        (["env=forethought/PointMas-v0"], "did you mean forethought/PointMass-v0"),
        (["env=no_module:Arm-v0"], "cannot import 'no_module'"),
        (["env=Pendulum-v1"], "objective=goal needs an environment with goals, but Pendulum-v1 has none"),
        ([ENV, "env_options.observation=sound"], "unknown observation 'sound'"),
        ([ENV, "learner.window=30", "env_options.max_episode_steps=20", "steps=40", "training.num_envs=2"],
         "learner.window must be at most the length of an episode, 20, got 30"),
    ],
)  # fmt: skip
def test_train_says_in_one_line_what_is_wrong(cli: Any, overrides: list[str], message: str, tmp_path: Path) -> None:
    out = [] if any(o.startswith("out=") for o in overrides) else [f"out={tmp_path / 'run'}"]
    assert_error(cli("train", "threads=1", "preset=default", *overrides, *out), message)


def test_a_full_disk_stops_with_an_error_and_the_run_goes_on_later(
    cli: Any, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert_error(cli("train", *small, f"out={run}"), "safetensors: No space left on device")
    before = load_checkpoint(run / "last.safetensors").state["updates"]
    assert 0 < before < 30
    assert f"resumed at update {before}" in cli("train", *small, f"out={run}").out
    assert load_checkpoint(run / "last.safetensors").state["updates"] == 30


def test_eval_refuses_what_is_no_run(cli: Any, small_run: Path, tmp_path: Path) -> None:
    assert_error(cli("eval", f"run={tmp_path / 'nowhere'}"), "must be the folder of a run, but there is none")
    assert_error(cli("eval", f"run={tmp_path}"), "best.safetensors does not exist")
    assert_error(cli("eval", f"run={small_run}", "checkpoint=bets"), "unknown checkpoint 'bets'")
    assert_error(cli("eval", f"run={small_run}", "episodes=0"), "episodes must be at least 1, got 0")
    assert_error(cli("eval", f"run={small_run}", "planer=cem"), "did you mean planner")
    assert_error(cli("eval", f"run={small_run}", "planner.num_elites=99"), "num_elites must be between 2 and")
    assert_error(cli("eval", f"run={small_run}", "device=cuda:77"), "device must be one that PyTorch can use")


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.marker, "executed")


def test_a_pickle_posing_as_weights_is_refused_unread(
    cli: Any, small_run: Path, small: list[str], tmp_path: Path
) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    for name in ("best", "last"):
        (run / f"{name}.safetensors").write_bytes(pickle.dumps(Malicious(tmp_path / "marker")))
    assert_error(cli("eval", f"run={run}"), "pickle or PyTorch archive, which could run code when loaded")
    assert_error(cli("train", *small, f"out={run}"), "pickle or PyTorch archive, which could run code when loaded")
    assert not (tmp_path / "marker").exists()


def planner_of(result: dict[str, Any]) -> tuple[str, int, int]:
    planner = result["planner"]
    return planner["name"], planner["num_samples"], planner["horizon"]


def test_eval_prints_a_table_and_takes_the_options_of_its_run(cli: Any, small_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(small_run, tmp_path / "my [run]")
    quick = ["threads=1", "episodes=2", "evaluation.timed_episodes=1", "evaluation.true_dynamics=false"]
    quick += ["evaluation.video=false", "evaluation.report=false"]
    done = cli("eval", f"run={run}", *quick)
    assert (done.code, done.err) == (0, "")
    rows = [line for line in done.out.splitlines() if line.startswith("│")]
    assert [row.split("│")[1].strip() for row in rows] == ["planner", "random"]
    assert "decision time: median" in done.out
    assert "no video: evaluation.video=false" in done.out
    assert done.out.splitlines()[-1].startswith(f"in {run}: eval.json")
    result = json.loads((run / "eval.json").read_text())
    assert planner_of(result) == ("icem", 16, 3)
    assert (result["episodes"], result["seed"]) == (2, 0)

    assert cli("eval", f"run={run}", *quick, "planner.num_samples=12", "seed=4").code == 0
    result = json.loads((run / "eval.json").read_text())
    assert planner_of(result) == ("icem", 12, 3)
    assert result["seed"] == 4

    other = ["planner=mppi", "planner.num_samples=32", "objective.cost=latent_l2"]
    assert cli("eval", f"run={run}", *quick, *other).code == 0
    result = json.loads((run / "eval.json").read_text())
    assert planner_of(result) == ("mppi", 32, 10)


def test_eval_counts_the_goals_of_an_episode(cli: Any, small_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    quick = [
        "threads=1",
        "episodes=3",
        "evaluation.timed_episodes=1",
        "evaluation.video=false",
        "evaluation.report=false",
    ]
    done = cli("eval", f"run={run}", *quick, "evaluation.goals_per_episode=2", "evaluation.true_samples=8")
    assert (done.code, done.err) == (0, "")
    assert "3 held-out episodes of 2 goals" in done.out
    result = json.loads((run / "eval.json").read_text())
    assert result["goals_per_episode"] == 2
    assert result["per_goal"][0]["given"] == 3
    assert len(result["per_goal"]) == len(result["random"]["per_goal"]) == len(result["true_dynamics"]["per_goal"]) == 2
    assert max(result["steps_to_goal"]["values"], default=0) <= 20  # each goal has the time of an episode


def test_a_goal_from_a_file_is_written_and_reached_for(cli: Any, small_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    done = cli("goal", f"run={run}", f"out={tmp_path / 'my goal.json'}", "seed=3")
    assert (done.code, done.out) == (0, f"goal: {tmp_path / 'my goal.json'}\n")
    quick = [
        "threads=1",
        "episodes=2",
        "evaluation.timed_episodes=1",
        "evaluation.video=false",
        "evaluation.report=false",
    ]
    done = cli("eval", f"run={run}", *quick, f"goal={tmp_path / 'my goal.json'}")
    assert (done.code, done.err) == (0, "")
    rows = [line for line in done.out.splitlines() if line.startswith("│")]
    assert [row.split("│")[1].strip() for row in rows] == ["planner", "random"]
    result = json.loads((run / "eval.json").read_text())
    assert result["success_rate"] is None
    assert result["goal"] == str(tmp_path / "my goal.json")
    assert_error(cli("eval", f"run={run}", *quick, "goal=nowhere.json"), "goal must be a file, but there is no nowhere")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["out=goal.json"], "run must be given: run=…"),
        (["run={run}"], "out must be given: out=…"),
        (["run={run}", "out=goal.png"], "out must end in .json for goals of forethought/PointMass-v0"),
        (["run={run}", "out=goal.json", "sead=3"], "unknown key of goal 'sead': did you mean seed"),
        (["run={run}", "out=goal.json", "seed=-1"], "seed must be between 0 and"),
        (["run={run}", "out=goal.json", "seed=x"], "evaluation.seed"),
        (["run=nowhere", "out=goal.json"], "run=nowhere must be the folder of a run"),
    ],
)
def test_goal_says_what_is_wrong(cli: Any, small_run: Path, overrides: list[str], message: str) -> None:
    assert_error(cli("goal", *(o.format(run=small_run) for o in overrides)), message)


def test_quickstart_trains_and_then_evaluates(cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from forethought.agent import cli as module

    calls: list[list[str]] = []
    monkeypatch.setattr(module, "_run_training", lambda overrides, console: calls.append(overrides) or tmp_path)
    monkeypatch.setattr(module, "_run_evaluation", lambda overrides, console: calls.append(overrides) or 0)
    assert cli("quickstart", "seed=3", "episodes=7", "threads=1").code == 0
    assert {"seed=3", "threads=1", "out=runs/reacher"} <= set(calls[0])
    assert calls[1] == [f"run={tmp_path}", "episodes=7", "threads=1"]


def test_quickstart_refuses_a_wrong_number_of_episodes_before_it_trains(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forethought.agent.jobs.train.train", lambda *args: pytest.fail("trained"))
    assert_error(cli("quickstart", "episodes=0"), "episodes must be at least 1, got 0")


def test_quickstart_that_is_interrupted_does_not_evaluate(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("forethought.agent.jobs.train.train", interrupted)
    monkeypatch.setattr("forethought.agent.jobs.evaluate.evaluate", lambda *args: pytest.fail("evaluated"))
    done = cli("quickstart")
    assert done.code == 130
    assert done.err == "interrupted\n"


def test_ctrl_c_in_a_terminal_saves_and_exits_with_130(small: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "forethought.agent.cli", "train", *small, "training.updates=200000"]
    with subprocess.Popen(
        [*command, "training.rounds=0", f"out={tmp_path / 'run'}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("train: "):
                break
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "stopping after this step and saving; Ctrl-C again quits at once" in out
    assert "stopped and saved" in out
    assert err == "interrupted\n"
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").state["updates"] >= 5
