"""Skills: an agent that acts on commands, as an environment sees it and as one that plans with it does."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ogbench")

from forethought.agent.export import ExportError, export_run
from forethought.agent.memory.store import EpisodeStore
from forethought.agent.runs import RunError, read_card
from forethought.agent.skill import Skilled
from forethought.agent.training.checkpoint import CheckpointError
from forethought.envs.goal_ahead import behaviour_of
from forethought.envs.registry import make_env, make_raw
from forethought.envs.simulator import make_simulator
from forethought.envs.spec import EnvError, EnvOptions
from forethought.envs.vector import make_vector

MAZE = "antmaze-medium-v0"
FEW = (
    "preset=ant_walk", "steps=120", "env_options.max_episode_steps=20", "training.updates=4", "training.rounds=1",
    "training.initial_fraction=0.5", "training.validation_episodes=1", "learner.batch_size=8", "planner.num_samples=32",
    "learner.compile=never", "agent.compile=never", "threads=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def walker(tmp_path_factory):
    from forethought.agent.cli import main

    run = tmp_path_factory.mktemp("runs") / "walker"
    assert main(["train", *FEW, f"out={run}"]) == 0
    return str(run)


def test_actions_are_commands_and_the_rest_is_the_environments(walker):
    plain, skilled = make_env(MAZE), make_env(MAZE, EnvOptions(skill=walker, action_repeat=5))
    assert plain.env_spec.action_dim == 8
    assert skilled.env_spec.action_low == (-1, -1)
    assert skilled.env_spec.action_high == (1, 1)
    assert skilled.env_spec.obs == plain.env_spec.obs
    assert skilled.env_spec.goal == plain.env_spec.goal
    first, info = skilled.reset(seed=3)
    other, other_info = plain.reset(seed=3)
    np.testing.assert_array_equal(first["observation"], other["observation"])
    np.testing.assert_array_equal(info["goal"]["observation"], other_info["goal"]["observation"])
    assert skilled.step(np.array([1.0, 0.0], np.float32))[4]["frames"] == 5
    for env in (plain, skilled):
        env.close()


def test_the_same_commands_do_the_same_and_others_do_not(walker):
    env = make_env(MAZE, EnvOptions(skill=walker))

    def play(command):
        env.reset(seed=0)
        return np.stack([env.step(np.array(command, np.float32))[0]["observation"] for _ in range(5)])

    east = play([1, 0])
    np.testing.assert_array_equal(play([1, 0]), east)
    assert np.abs(play([0, 1]) - east).max() > 1e-3
    env.close()


def test_the_skill_sees_what_is_hidden_from_above(walker):
    options = {"skill": walker, "action_repeat": 2}
    hidden = make_env(MAZE, EnvOptions(hide=["observation[2:29]"], **options))
    whole = make_env(MAZE, EnvOptions(**options))
    places = []
    for env in (hidden, whole):
        env.reset(seed=1)
        places.append([env.step(np.array([0, 1], np.float32))[0]["observation"][:2] for _ in range(3)])
        env.close()
    np.testing.assert_array_equal(places[0], places[1])
    assert hidden.env_spec.obs["observation"].shape == (2,)


def test_several_environments_with_skills_do_not_disturb_each_other(walker):
    options = EnvOptions(skill=walker)
    alone, both = make_vector(MAZE, 1, options), make_vector(MAZE, 2, options)
    alone.reset([5])
    both.reset([5, 6])
    east, north = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    for _ in range(4):
        single, several = alone.step(east[None]), both.step(np.stack([east, north]))
    np.testing.assert_array_equal(single.obs["observation"][0], several.obs["observation"][0])
    alone.close()
    both.close()


@pytest.fixture(scope="module")
def above(walker, tmp_path_factory):
    from forethought.agent.cli import main

    run = tmp_path_factory.mktemp("runs") / "above"
    train = [
        "train", "preset=antmaze_skill", f"env_options.skill={walker}", "steps=40", "env_options.max_episode_steps=10",
        "training.updates=4", "training.validation_episodes=1", "learner.batch_size=8", "threads=1",
    ]  # fmt: skip
    assert main([*train, f"out={run}"]) == 0
    return run


def test_a_training_above_a_skill_remembers_it_and_evaluates_with_it(above, walker, cli):
    assert read_card(above, "last")["config"]["env_options"]["skill"] == walker
    switches = ["evaluation.random=false", "evaluation.video=false", "evaluation.report=false"]
    outcome = cli("eval", f"run={above}", "episodes=1", *switches)
    assert outcome.code == 0, outcome.err
    assert "its actions are commands" in json.loads((above / "eval.json").read_text())["reason_true_dynamics"]


def test_zeros_are_rest(walker):
    env, plain = make_env(MAZE, EnvOptions(skill=walker)), make_env(MAZE)
    env.reset(seed=0)
    plain.reset(seed=0)
    for _ in range(3):
        ours, rest = env.step(np.zeros(2, np.float32))[0], plain.step(np.zeros(8, np.float32))[0]
        np.testing.assert_array_equal(ours["observation"], rest["observation"])
    env.close()
    plain.close()


def test_limits_and_behaviour_of_the_robot_are_not_those_of_commands(walker):
    raw, _ = make_raw(MAZE, EnvOptions())
    raw.unwrapped.action_rate, raw.unwrapped.behaviour = [2.0], lambda seed: lambda: np.zeros(8)
    assert raw.get_wrapper_attr("action_rate") == [2.0]
    env = Skilled(raw, walker)
    assert env.get_wrapper_attr("action_rate") == ()
    assert behaviour_of(env, 0) is None
    env.close()


# -- which skill it is -------------------------------------------------------------------------------------------------


def test_the_spec_says_which_skill_it_is(walker, tmp_path):
    card = read_card(Path(walker), "best")
    moved = tmp_path / "moved"
    shutil.copytree(walker, moved)
    specs = []
    for options in (EnvOptions(skill=walker), EnvOptions(skill=str(moved)), EnvOptions()):
        env = make_env(MAZE, options)
        specs.append(env.env_spec)
        env.close()
    assert specs[0].skill is not None
    assert specs[0].skill.startswith(card["run_id"])
    assert specs[0] == specs[1] == type(specs[0]).from_json(specs[0].to_json())
    assert specs[2].skill is None
    assert "skill" not in specs[2].to_json()


def test_a_run_is_evaluated_above_its_own_skill_alone(above, walker, tmp_path, cli):
    moved, other = tmp_path / "moved", tmp_path / "other"
    shutil.copytree(walker, moved)
    switches = ["episodes=1", "evaluation.random=false", "evaluation.video=false", "evaluation.report=false"]
    assert cli("eval", f"run={above}", f"env_options.skill={moved}", *switches).code == 0
    assert cli("train", *FEW, "seed=1", f"out={other}").code == 0
    refused = cli("eval", f"run={above}", f"env_options.skill={other}", *switches)
    assert refused.code == 2
    assert "skill of antmaze-medium-v0 must be that of the run" in " ".join(refused.err.split())


def test_an_export_brings_its_skill_along(above, tmp_path, cli, monkeypatch):
    export, again = tmp_path / "export", tmp_path / "again"
    assert "skill/best.safetensors" in export_run(above, export)
    assert export_run(export, again) == export_run(above, export)
    skill = read_card(above, "best")["spec"]["skill"]
    assert f"Its actions are commands to a skill, `{skill}`" in (export / "README.md").read_text()
    moved = tmp_path / "elsewhere" / "moved"
    shutil.copytree(again, moved)
    shutil.rmtree(again)
    assert read_card(moved, "best")["config"]["env_options"]["skill"] == str(moved / "skill")
    monkeypatch.chdir(tmp_path)
    switches = ["evaluation.random=false", "evaluation.video=false", "evaluation.report=false"]
    outcome = cli("eval", f"run={moved}", "episodes=1", *switches)
    assert outcome.code == 0, outcome.err
    env = make_env(MAZE, EnvOptions(skill=str(moved / "skill")))
    assert env.env_spec.skill == skill
    env.close()


def test_an_agent_is_not_exported_without_its_skill(above, walker, tmp_path, cli):
    lost, hidden = tmp_path / "export", f"{walker}-hidden"
    shutil.move(walker, hidden)
    try:
        with pytest.raises(ExportError, match=r"acts by a skill, which must be where it lay: run=.* must be the"):
            export_run(above, lost)
        assert cli("train", *FEW, "seed=1", f"out={walker}").code == 0
        with pytest.raises(ExportError, match=r"this agent acts by the skill .*, but in .* is .* at"):
            export_run(above, lost)
    finally:
        shutil.rmtree(walker, ignore_errors=True)
        shutil.move(hidden, walker)
    assert not lost.exists()


def test_an_export_does_not_replace_the_skill_that_it_takes_along(above, tmp_path, cli):
    export = tmp_path / "export"
    export_run(above, export)
    weights = (export / "skill" / "best.safetensors").read_bytes()
    run, small = tmp_path / "run", ["steps=20", "training.updates=2", "learner.batch_size=8", "threads=1"]
    short = ["env_options.max_episode_steps=10", "training.validation_episodes=1"]
    skill = f"env_options.skill={export / 'skill'}"
    assert cli("train", "preset=antmaze_skill", skill, *small, *short, f"out={run}").code == 0
    with pytest.raises(ExportError, match="out must not hold the skill that the agent acts by, got"):
        export_run(run, export)
    assert (export / "skill" / "best.safetensors").read_bytes() == weights


def test_environments_share_one_reading_of_their_skill(walker, tmp_path):
    def above(run):
        return Skilled(make_raw(MAZE, EnvOptions())[0], str(run))

    first, second = above(walker), above(walker)
    assert first._agent is second._agent
    assert first._body is not second._body
    run = tmp_path / "again"
    shutil.copytree(walker, run)
    before = above(run)
    shutil.copyfile(run / "last.safetensors", run / "new")
    (run / "new").replace(run / "best.safetensors")
    assert above(run)._agent is not before._agent  # it was trained on
    for env in (first, second, before):
        env.close()


def test_what_was_collected_above_a_skill_is_found_again_wherever_it_lies(walker, cli, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(walker, moved)
    counts = []
    for skill in (walker, moved):
        options = ["steps=20", "training.num_envs=1", "env_options.max_episode_steps=10", f"out={tmp_path / 'data'}"]
        outcome = cli("collect", f"env={MAZE}", f"env_options.skill={skill}", "preset=default", *options)
        assert outcome.code == 0, outcome.err
        with EpisodeStore.open(tmp_path / "data" / "memory") as store:
            counts.append(len(store))
    assert counts == [2, 2]


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_run_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RunError, match="nowhere must be the folder of a run"):
        make_env(MAZE, EnvOptions(skill=str(tmp_path / "nowhere")))


def test_another_body_is_refused(walker):
    with pytest.raises(EnvError, match="moves a body whose actions are from"):
        make_env("pointmaze-medium-v0", EnvOptions(skill=walker))


def test_another_pace_is_refused(walker):
    with pytest.raises(EnvError, match=r"acts every 0\.1 s, this environment every 0\.05 s"):
        make_env("AntMaze_UMaze-v5", EnvOptions(skill=walker))


def test_a_skill_of_longer_decisions_is_refused(cli, tmp_path):
    run = tmp_path / "slow"
    assert cli("train", *FEW, "env_options.action_repeat=2", f"out={run}").code == 0
    with pytest.raises(RunError, match="must have been trained with action_repeat=1 on all of the state"):
        make_env(MAZE, EnvOptions(skill=str(run)))


def test_a_run_that_learned_no_skill_is_refused(small_run):
    with pytest.raises(RunError, match="must be a run with objective=reward in an environment with a skill"):
        make_env(MAZE, EnvOptions(skill=str(small_run)))


def test_damaged_weights_are_refused(walker, tmp_path):
    (tmp_path / "best.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError):
        make_env(MAZE, EnvOptions(skill=str(tmp_path)))


def test_there_is_no_simulator_above_a_skill(walker):
    with pytest.raises(EnvError, match="its actions are commands to skill="):
        make_simulator("FetchReach-v4", EnvOptions(skill=walker))


def test_a_folder_must_be_a_string():
    with pytest.raises(EnvError, match="skill must be the folder of a run, got 3"):
        make_env(MAZE, EnvOptions(skill=3))  # type: ignore[arg-type]


def test_the_wrapper_can_be_used_alone(walker):
    raw, _ = make_raw(MAZE, EnvOptions())
    env = Skilled(raw, walker)
    env.reset(seed=0)
    observation, *_ = env.step(np.zeros(2, np.float32))
    assert observation.shape == (29,)
    env.close()
