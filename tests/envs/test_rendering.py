"""Finding an OpenGL backend without risking the process, and what the pictures show."""

import os
import subprocess
import sys

import mujoco
import numpy as np
import pytest

from forethought.envs import rendering
from forethought.envs.rendering import Renderer, RenderingUnavailable
from forethought.envs.spec import EnvError
from forethought.envs.tasks.cartpole import Cartpole
from forethought.envs.tasks.pointmass import PointMass
from forethought.envs.tasks.push import Push
from forethought.envs.tasks.reacher import Reacher

needs_opengl = pytest.mark.skipif(rendering.available() is None, reason="no OpenGL backend works here")

# Looked at from above, a red ball lies in the upper left and a green one in the lower right.
XML = """
<mujoco>
  <visual><headlight ambient="1 1 1" diffuse="0 0 0"/></visual>
  <worldbody>
    <light pos="0 0 3" dir="0 0 -1"/>
    <camera name="above" pos="0 0 3"/>
    <geom type="plane" size="2 2 .1" rgba=".2 .2 .2 1"/>
    <geom type="sphere" size=".2" pos="-.5 .5 .2" rgba="1 0 0 1"/>
    <body name="ball" pos=".5 -.5 .2"><joint type="slide" axis="1 0 0"/>
      <geom type="sphere" size=".2" rgba="0 1 0 1"/></body>
  </worldbody>
</mujoco>
"""


@pytest.fixture(scope="module")
def scene():
    model = mujoco.MjModel.from_xml_string(XML)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


@pytest.fixture
def probes(monkeypatch):
    """Forget what is known about backends, and again afterwards."""
    rendering._first_working.cache_clear()
    yield monkeypatch
    rendering._first_working.cache_clear()


def run(code, **environment):
    base = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=base | environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("setting", ["disabled", "off", "no-such-backend"])
def test_mujoco_gl_decides(probes, setting):
    probes.setenv("MUJOCO_GL", setting)
    assert rendering.available() is None
    with pytest.raises(RenderingUnavailable, match=r"libegl1 .*libosmesa6") as caught:
        rendering.require()
    assert f"only {setting!r} was tried, because MUJOCO_GL is set" in str(caught.value)
    assert os.environ["MUJOCO_GL"] == setting


def test_without_opengl_states_work_and_pictures_say_what_to_install():
    code = """
import numpy as np
from forethought.envs.vector import make_vector
from forethought.envs.rendering import RenderingUnavailable
env = make_vector("forethought/Reacher-v0", 2)
env.reset([0, 1])
print(env.step(np.zeros((2, 2))).reward.tolist())
try:
    env.render(0)
except RenderingUnavailable as error:
    print(error)
"""
    done = run(code, MUJOCO_GL="disabled")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[-1.0, -1.0]\ncannot draw: no OpenGL backend works here")
    assert "apt-get install libosmesa6" in done.stdout


@pytest.mark.parametrize("probe", ["import os; os.abort()", "raise SystemExit(3)", "import time; time.sleep(60)"])
def test_a_driver_that_crashes_fails_or_hangs_does_not_work(probes, probe):
    probes.delenv("MUJOCO_GL", raising=False)
    probes.setattr(rendering, "_PROBE", probe)
    probes.setattr(rendering, "_PROBE_TIMEOUT_S", 0.5)
    assert rendering.available() is None


def test_the_next_backend_is_tried_and_the_answer_kept(probes):
    probes.delenv("MUJOCO_GL", raising=False)
    probes.setattr("platform.system", lambda: "Linux")
    tried = []
    probes.setattr(rendering, "_works", lambda name: tried.append(name) or name == "osmesa")
    assert rendering.available() == rendering.available() == "osmesa"
    assert tried == ["egl", "osmesa"]
    assert rendering.require() == os.environ["MUJOCO_GL"] == "osmesa"


@pytest.mark.parametrize(
    ("system", "display", "expected"),
    [
        ("Linux", "", ("egl", "osmesa")),
        ("Linux", ":0", ("egl", "osmesa", "glfw")),
        ("Darwin", "", ("cgl", "glfw")),
        ("Windows", "", ("glfw",)),
    ],
)
def test_candidates_by_system(monkeypatch, system, display, expected):
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert rendering._candidates("") == rendering._candidates("on") == expected
    assert rendering._candidates("osmesa") == ("osmesa",)


def test_importing_has_no_effect():
    done = run("import os, forethought.envs.rendering; print('MUJOCO_GL' in os.environ)")
    assert (done.stdout.strip(), done.stderr) == ("False", "")


@needs_opengl
def test_an_unclosed_renderer_is_silent_at_exit_and_needs_no_setting():
    code = """
import mujoco
from forethought.envs.rendering import Renderer
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
first, second = Renderer(model, 16, 16), Renderer(model, 16, 16, preset="nice")
print(first.render(data).shape, second.render(data).shape)
del second
"""
    done = run(code)
    assert (done.stdout.strip(), done.stderr) == ("(16, 16, 3) (16, 16, 3)", "")


@needs_opengl
def test_a_context_that_cannot_be_made(scene, monkeypatch):
    monkeypatch.setattr(rendering, "require", lambda: "no_such_backend")
    with pytest.raises(RenderingUnavailable, match="'no_such_backend' gave no context"):
        Renderer(scene[0], 16, 16)


@needs_opengl
@pytest.mark.parametrize("preset", ["fast", "nice"])
def test_pictures_stand_upright_and_have_the_size_asked_for(scene, preset):
    renderer = Renderer(scene[0], 40, 60, camera="above", preset=preset)
    picture = renderer.render(scene[1]).astype(int)
    renderer.close()
    assert picture.shape == (40, 60, 3)
    red = np.argwhere(picture[..., 0] > picture[..., 1] + 60)
    green = np.argwhere(picture[..., 1] > picture[..., 0] + 60)
    assert (red < [20, 30]).all()
    assert (green >= [20, 30]).all()
    assert len(red) > 20
    assert len(green) > 20


@needs_opengl
def test_every_picture_is_a_new_array(scene):
    renderer = Renderer(scene[0], 24, 24, camera=0)
    first = renderer.render(scene[1])
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(renderer.render(scene[1]), kept)
    renderer.close()


@needs_opengl
def test_a_ghost_is_drawn_over_the_scene_and_gone_afterwards(scene):
    model, data = scene
    renderer = Renderer(model, 48, 48, camera="above")
    ghost = mujoco.MjData(model)
    ghost.qpos[:] = -1.0
    mujoco.mj_kinematics(model, ghost)
    plain, haunted, after = renderer.render(data), renderer.render(data, ghost=ghost), renderer.render(data)
    renderer.close()
    np.testing.assert_array_equal(plain, after)
    changed = np.argwhere((plain != haunted).any(-1))
    assert len(changed) > 10
    assert (changed >= [24, 0]).all()
    assert (changed < [48, 24]).all()  # lower left, where the ball would be


@needs_opengl
def test_the_model_is_not_changed(scene):
    model = scene[0]
    before = (model.vis.quality.offsamples, model.vis.quality.shadowsize, model.vis.global_.offwidth)
    Renderer(model, 700, 900).close()
    assert (model.vis.quality.offsamples, model.vis.quality.shadowsize, model.vis.global_.offwidth) == before


@needs_opengl
def test_a_closed_renderer(scene):
    renderer = Renderer(scene[0], 16, 16)
    renderer.close()
    renderer.close()
    with pytest.raises(EnvError, match="the renderer is closed"):
        renderer.render(scene[1])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 16), {}, "height must be between 1 and 4096 pixels, got 0"),
        ((16, 5000), {}, "width must be between 1 and 4096 pixels, got 5000"),
        ((16, 16), {"preset": "ugly"}, "preset must be 'fast' or 'nice', got 'ugly'"),
        ((16, 16), {"camera": "below"}, r"camera must be one of \['above'\], an index below 1, or -1, got 'below'"),
        ((16, 16), {"camera": 1}, "got 1"),
    ],
)
def test_bad_arguments(scene, arguments, options, message):
    with pytest.raises(EnvError, match=message):
        Renderer(scene[0], *arguments, **options)


@needs_opengl
@pytest.mark.parametrize("kind", [Reacher, PointMass, Cartpole, Push])
def test_tasks_draw_themselves_and_their_goals(kind):
    task = kind(render_mode="rgb_array")
    task.reset(seed=0)
    seen, goal, video = task.render_pixels(64), task.render_goal_pixels(64), task.render()
    assert seen.shape == goal.shape == (64, 64, 3)
    assert video.shape == (480, 480, 3)
    assert (seen != goal).any()
    task.data.qpos[:] = task.sample_episode(0)[1][0]
    np.testing.assert_array_equal(task.render_pixels(64), goal)  # arriving looks exactly like the goal
    task.close()


@needs_opengl
@pytest.mark.parametrize("kind", [Reacher, Push])
def test_looking_does_not_change_the_physics(kind):
    watched, alone = kind(render_mode="rgb_array"), kind()
    for task in (watched, alone):
        task.reset(seed=0)
    for _ in range(5):
        action = watched.action_space.high
        watched.render_pixels(16)
        obs, other = watched.step(action)[0], alone.step(action)[0]
        watched.render_goal_pixels(16)
        for key in obs:
            np.testing.assert_array_equal(obs[key], other[key])
    np.testing.assert_array_equal(watched.data.qacc_warmstart, alone.data.qacc_warmstart)
    watched.close()
