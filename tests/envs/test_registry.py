import importlib.util
import math
import subprocess
import sys
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import forethought
from forethought import UnknownNameError
from forethought.envs import registry
from forethought.envs.registry import list_envs, make_env
from forethought.envs.spec import EnvError, EnvOptions, EnvSpec
from forethought.envs.tasks import REWARD_TASK_IDS, SKILL_TASK_IDS, TASK_IDS

robotics = pytest.mark.skipif(importlib.util.find_spec("gymnasium_robotics") is None, reason="needs the extra robotics")
ogbench = pytest.mark.skipif(importlib.util.find_spec("ogbench") is None, reason="needs the extra robotics")
worldmodel = [
    pytest.mark.skipif(importlib.util.find_spec("stable_worldmodel") is None, reason="needs the extra worldmodel"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

CONTRACT = [
    "Pendulum-v1",
    "InvertedPendulum-v5",
    "HalfCheetah-v5",
    "dm_control/cartpole-swingup-v0",
    "dm_control/reacher-easy-v0",
    "dm_control/humanoid-stand-v0",
    *TASK_IDS,
    *REWARD_TASK_IDS,
    pytest.param("FetchReach-v4", marks=robotics),
    pytest.param("PointMaze_UMaze-v3", marks=robotics),
    pytest.param("pointmaze-medium-v0", marks=ogbench),
    *(pytest.param(env_id, marks=ogbench) for env_id in SKILL_TASK_IDS),
    *(pytest.param(f"swm/{name}", marks=worldmodel) for name in ("TwoRoom-v1", "PushT-v1", "ReacherDMControl-v0")),
]
DT = {
    "Pendulum-v1": 0.05,
    "HalfCheetah-v5": 0.05,
    "dm_control/cartpole-swingup-v0": 0.01,
    "FetchReach-v4": 0.04,
    "PointMaze_UMaze-v3": 0.01,
    "pointmaze-medium-v0": 0.1,
}
LIMITS = {
    "Pendulum-v1": 200,
    "HalfCheetah-v5": 1000,
    "dm_control/cartpole-swingup-v0": 1000,
    "FetchReach-v4": 50,
    "PointMaze_UMaze-v3": 300,
    "pointmaze-medium-v0": 1000,
}


@pytest.fixture
def env(request):
    made = make_env(request.param)
    yield made
    made.close()


def check(arrays, specs):
    assert list(arrays) == list(specs) == sorted(specs)
    for key, spec in specs.items():
        array = arrays[key]
        assert isinstance(array, np.ndarray)
        assert (array.shape, array.dtype.name) == (spec.shape, spec.dtype)
        assert spec.dtype in ("float32", "uint8")
        assert np.isfinite(array).all()


def check_goal(info, spec):
    assert type(info["success"]) is bool
    if spec.goal is None:
        assert "goal" not in info
    elif spec.goal.kind == "observation":
        check(info["goal"], spec.obs)
    else:
        assert list(info["goal"]) == ["desired_goal"]
        assert info["goal"]["desired_goal"].dtype == np.float32
        assert info["goal"]["desired_goal"].shape == (spec.goal.dim,) == spec.obs[spec.goal.achieved_key].shape


def rollout(env, seed, steps=8):
    """Observations, rewards and goals of an episode that follows from the seed."""
    rng = np.random.default_rng(seed)
    obs, info = env.reset(seed=seed)
    trace = [*obs.values(), *info.get("goal", {}).values()]
    for _ in range(steps):
        action = rng.uniform(env.env_spec.action_low, env.env_spec.action_high).astype(np.float32)
        obs, reward, terminated, truncated, info = env.step(action)
        trace += [*obs.values(), *info.get("goal", {}).values(), np.float64(reward)]
        if terminated or truncated:
            break
    return trace


@pytest.mark.parametrize("env", CONTRACT, indirect=True)
def test_contract(env):
    spec = env.env_spec
    assert spec == EnvSpec.from_json(spec.to_json())
    assert spec.control_dt == pytest.approx(DT.get(spec.env_id, spec.control_dt))
    assert spec.control_dt > 0
    assert spec.max_episode_steps == LIMITS.get(spec.env_id, spec.max_episode_steps)
    assert all(
        low < high and math.isfinite(low) and math.isfinite(high)
        for low, high in zip(spec.action_low, spec.action_high, strict=True)
    )
    assert env.action_space.shape == (spec.action_dim,)
    assert env.action_space.dtype == np.float32
    obs, info = env.reset(seed=0)
    check(obs, spec.obs)
    check_goal(info, spec)
    assert env.observation_space.contains(obs)
    for bound in (spec.action_low, spec.action_high, np.multiply(spec.action_high, 1e3)):
        obs, reward, terminated, truncated, info = env.step(np.float32(bound))
        check(obs, spec.obs)
        check_goal(info, spec)
        assert [type(x) for x in (reward, terminated, truncated)] == [float, bool, bool]
        assert info["frames"] == 1
        if terminated or truncated:
            env.reset()


@pytest.mark.parametrize("env", CONTRACT, indirect=True)
def test_the_seed_decides_the_episode(env):
    first, other = rollout(env, seed=5), rollout(env, seed=6)
    again = rollout(env, seed=5)
    fresh = make_env(env.env_spec.env_id)
    for trace in (again, rollout(fresh, seed=5)):
        assert len(trace) == len(first)
        for a, b in zip(first, trace, strict=True):
            np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(first, other, strict=False))
    fresh.close()


@pytest.mark.parametrize("env_id", CONTRACT)
def test_time_limit_truncates_and_action_repeat_counts_frames(env_id):
    env = make_env(env_id, EnvOptions(max_episode_steps=3, action_repeat=2))
    env.reset(seed=0)
    middle = np.float32(np.add(env.env_spec.action_low, env.env_spec.action_high) / 2)
    steps = [env.step(middle) for _ in range(3)]
    assert [step[2] for step in steps] == [False] * 3
    assert [step[3] for step in steps] == [False, False, True]
    assert [step[4]["frames"] for step in steps] == [2, 2, 2]
    env.close()


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "dm_control/cartpole-swingup-v0"])
def test_the_limit_can_be_longer_than_the_environments_own(env_id):
    env = make_env(env_id, EnvOptions(max_episode_steps=1003))
    env.reset(seed=0)
    ends = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(1003)]
    assert ends == [(False, False)] * 1002 + [(False, True)]
    env.close()


def test_own_limit_is_in_decisions():
    env = make_env("Pendulum-v1", EnvOptions(action_repeat=3))
    assert env.env_spec.max_episode_steps == 67
    assert env.env_spec.control_dt == pytest.approx(0.15)


def test_nothing_is_imported_before_an_id_needs_it():
    code = (
        "import sys; from forethought.envs.registry import make_env; make_env('Pendulum-v1').close();"
        "heavy = {'mujoco', 'dm_control', 'shimmy', 'gymnasium_robotics', 'ogbench', 'torch'};"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_public_name():
    assert forethought.make_env is make_env


class Fake(gymnasium.Env):
    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(np.float32([[-1, 0], [0, -2]]), np.float32([[0, 1], [3, -1]]))
    closed = 0

    def __init__(self, arm="left"):
        self.arm = arm

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, {}

    def close(self):
        Fake.closed += 1


@pytest.fixture
def fake_id():
    gymnasium.register("tests/Fake-v3", entry_point=Fake, max_episode_steps=9)
    yield "tests/Fake-v3"
    del gymnasium.registry["tests/Fake-v3"]


def test_a_users_own_environment(fake_id):
    env = make_env(fake_id, EnvOptions(kwargs={"arm": "right"}))
    assert env.unwrapped.arm == "right"
    assert env.env_spec.action_low == (-1, 0, 0, -2)
    assert env.env_spec.action_high == (0, 1, 3, -1)
    assert env.env_spec.max_episode_steps == 9


def test_module_and_id(tmp_path, monkeypatch):
    (tmp_path / "forethought_test_robot.py").write_text(
        "import gymnasium\ngymnasium.register('RobotOfTheTest-v0', 'gymnasium.envs.classic_control:PendulumEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        env = make_env("forethought_test_robot:RobotOfTheTest-v0")
        assert env.env_spec.env_id == "forethought_test_robot:RobotOfTheTest-v0"
        with pytest.raises(UnknownNameError, match="did you mean RobotOfTheTest-v0"):
            make_env("forethought_test_robot:RobotOfTheTst-v0")
    finally:
        gymnasium.registry.pop("RobotOfTheTest-v0", None)
        sys.modules.pop("forethought_test_robot", None)


def test_module_that_cannot_be_imported():
    with pytest.raises(
        EnvError, match="cannot import 'no_such_robot', which 'no_such_robot:Arm-v0' says registers"
    ) as e:
        make_env("no_such_robot:Arm-v0")
    assert isinstance(e.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    ("env_id", "nearest"),
    [
        ("Hopper-v9", "Hopper-v5"),
        ("Pendulum", "Pendulum-v1"),
        ("HalfCheeta-v5", "HalfCheetah-v5"),
        ("dm_control/cartpole-swing-v0", "dm_control/cartpole-swingup-v0"),
        ("forethought/Reach-v0", "forethought/Reacher-v0"),
        ("tests/Fak-v3", "tests/Fake-v3"),
        pytest.param("FetchReech-v4", "FetchReach-v4", marks=robotics),
        pytest.param("pointmaze-middle-v0", "pointmaze-medium-v0", marks=ogbench),
    ],
)
def test_unknown_ids_offer_the_nearest(env_id, nearest, fake_id):
    with pytest.raises(UnknownNameError, match=f"unknown environment id '{env_id}': did you mean .*{nearest}"):
        make_env(env_id)


def test_id_must_be_a_string():
    with pytest.raises(EnvError, match="must be a string, got None"):
        make_env(None)


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("CartPole-v1", {}, r"CartPole-v1: the action space must be a Box .* got Discrete\(2\)"),
        ("Pendulum-v1", {"kwargs": {"gravity": 3}}, "cannot make Pendulum-v1: TypeError.*gravity"),
        ("dm_control/cartpole-swingup-v0", {"kwargs": {"speed": 3}}, "cannot make .*swingup-v0: TypeError.*speed"),
        ("Pendulum-v1", {"action_repeat": 0}, "action_repeat must be an integer of at least 1, got 0"),
    ],
)
def test_environments_that_cannot_be_made(env_id, options, message):
    with pytest.raises(EnvError, match=message):
        make_env(env_id, EnvOptions(**options))


def test_a_refused_environment_is_closed(fake_id, monkeypatch):
    monkeypatch.setattr(Fake, "action_space", spaces.Discrete(2))
    before = Fake.closed
    with pytest.raises(EnvError):
        make_env(fake_id)
    assert Fake.closed == before + 1


@pytest.mark.parametrize(
    ("env_id", "package"),
    [
        ("FetchPushFar-v4", "gymnasium-robotics"),
        ("PointMaze_Huge-v3", "gymnasium-robotics"),
        ("antmaze-huge-v0", "ogbench"),
        ("visual-cube-nonuple-v0", "ogbench"),
    ],
)
def test_a_missing_extra_is_named(env_id, package, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvError, match=rf"{env_id} needs {package}.*pip install 'forethought\[robotics\]'"):
        make_env(env_id)


def test_list_envs():
    sources = list_envs()
    assert list(sources) == [
        "forethought",
        "gymnasium-mujoco",
        "dm_control",
        "robotics",
        "ogbench",
        "worldmodel",
        "plug-ins",
    ]
    assert sources["forethought"] == sorted([*TASK_IDS, *REWARD_TASK_IDS, *SKILL_TASK_IDS])
    assert "HalfCheetah-v5" in sources["gymnasium-mujoco"]
    assert "dm_control/cartpole-swingup-v0" in sources["dm_control"]
    for ids in sources.values():
        assert ids == sorted(set(ids))
        assert all(env_id in gymnasium.registry for env_id in ids)


def test_a_source_that_is_not_installed_is_empty(monkeypatch):
    monkeypatch.setattr(registry, "_load_everything", lambda: None)
    monkeypatch.setattr(gymnasium, "registry", {"Pendulum-v1": gymnasium.registry["Pendulum-v1"]})
    assert set(map(len, list_envs().values())) == {0}


@robotics
@ogbench
def test_list_envs_of_the_extra():
    sources = list_envs()
    assert {"FetchReach-v4", "PointMaze_UMaze-v3"} <= set(sources["robotics"])
    assert {"pointmaze-medium-v0", "cube-single-v0"} <= set(sources["ogbench"])


# -- plug-ins ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def plug_in(monkeypatch):
    """Installed packages that offer entry points, as `(name, function)`."""

    def install(*offered):
        def load(function):
            return lambda: function

        entries = [SimpleNamespace(name=n, value=f"{f.__module__}:{f.__name__}", load=load(f)) for n, f in offered]
        monkeypatch.setattr(
            registry.metadata, "entry_points", lambda group: entries if group == "gymnasium.envs" else ()
        )
        registry._load_plugins.cache_clear()

    yield install
    registry._load_plugins.cache_clear()
    for env_id in ("PlugIn-v0", "arms/PlugIn-v0"):
        gymnasium.registry.pop(env_id, None)


def offer():
    gymnasium.register("PlugIn-v0", entry_point=gymnasium.spec("Pendulum-v1").entry_point, max_episode_steps=7)


def fall():
    raise RuntimeError("no licence")


def test_entry_points_of_packages_register_their_environments(plug_in):
    plug_in(("__root__", offer))
    assert make_env("PlugIn-v0").env_spec.max_episode_steps == 7


def test_the_name_of_an_entry_point_is_its_namespace(plug_in):
    plug_in(("arms", offer))
    assert make_env("arms/PlugIn-v0").env_spec.max_episode_steps == 7


def test_a_broken_entry_point_is_told_where_an_id_is_missing(plug_in):
    plug_in(("__root__", fall), ("__root__", offer))
    with pytest.raises(EnvError, match=r"'.*:fall' of the group 'gymnasium.envs' cannot register .* no licence"):
        make_env("Nothing-v0")
    assert make_env("PlugIn-v0").env_spec.max_episode_steps == 7  # the others work
    assert make_env("Pendulum-v1").env_spec.max_episode_steps == 200


def test_list_envs_shows_plug_ins(plug_in, monkeypatch):
    plug_in(("__root__", offer))
    offer()
    monkeypatch.setattr(gymnasium.registry["PlugIn-v0"], "entry_point", f"{offer.__module__}:Arm")
    assert "PlugIn-v0" in list_envs()["plug-ins"]
