"""The report is one valid page that needs nothing else, says what is missing, and cannot be injected into."""

import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forethought.agent.files import FileError, read_json, write_json
from forethought.agent.report import html, plots
from forethought.agent.report.html import write_report
from forethought.agent.report.video import write_video
from forethought.agent.training.metrics import WARNING_KEY, MetricsLogger

SECTIONS = {
    "results", "video", "success", "learning", "latents", "imagination", "knowledge", "timing", "config",
    "machine", "files",
}  # fmt: skip
DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
VOID = {"meta", "img", "br", "source", "link", "input", "hr"}
HOSTILE = "</title><script>alert(1)</script>\"'><img src=http://evil.example/x onerror=alert(2)>"


class Page(HTMLParser):
    """Checks that tags nest, and collects the text and figures of each section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: dict[str, str] = {}
        self.pictures: dict[str, int] = {}
        self.section = "header"
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "section":
            self.section = str(dict(attrs)["id"])
            self.text[self.section] = ""
        if tag == "img":
            self.pictures[self.section] = self.pictures.get(self.section, 0) + 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text[self.section] = self.text.get(self.section, "") + data.replace("\N{NO-BREAK SPACE}", " ")


def block(rate: float | None, steps: list[int]) -> dict[str, Any]:
    return {
        "success_rate": rate,
        "success_ci": [0.964, 1.0],
        "return_mean": -1.8,
        "return_ci": [-2.5, -1.25],
        "steps_to_goal": {"median": 19.0, "mean": 20.0, "p90": 28.0, "values": steps},
    }


EVAL: dict[str, Any] = {
    "env": "FetchReach-v4",
    "objective": "goal",
    "episodes": 100,
    "seed": 0,
    "seeds": list(range(100000, 100100)),
    "command": "forethought evaluate run=runs/a",
    **block(1.0, [10, 12, 19]),
    "decision_ms": {"p50": 20.9, "p99": 30.9, "values": [20.0, 21.0, 30.0]},
    "random": {**block(0.04, [40]), "success_ci": [0.011, 0.099]},
    "true_dynamics": None,
    "reason_true_dynamics": "the simulator cannot be copied",
    "arms": {"no memory": block(0.85, [20, 30])},
    "video": "rollout.mp4",
    "video_reason": None,
    "versions": {"torch": "2.13.0"},
    "machine": {"cpu": "Example 9000", "cores": 2},
    "commit": "3f2a9c1b7d5e44aa",
    "time": "2025-06-12T14:31:05+00:00",
}
DIAGNOSTICS: dict[str, Any] = {
    "imagination": {"names": ["x (m)"], "real": [[[0.0], [1.0], [2.0]]], "imagined": [[[0.0], [0.9], [1.7]]]},
    "imagination_error": {"horizon": [1, 2], "model": [0.1, 0.3], "persistence": [1.0, 2.0]},
    "calibration": {"predicted": [1.0, 2.0, 3.0], "true": [1.0, 2.0, 4.0]},
    "linear_probe": {
        "names": ["x", "v", "gravity"], "r2": [0.9, 0.1, None], "r2_learned": [0.8, -0.1, None],
        "constant": ["gravity"], "episodes": 10, "states": 310, "reason": None,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("full")
    write_json(run_dir / "eval.json", EVAL)
    write_json(run_dir / "diagnostics.json", DIAGNOSTICS)
    write_json(run_dir / "run.json", {"command": "forethought run", "versions": {"numpy": "2.4"}, "machine": {}})
    (run_dir / "config.yaml").write_text("env: FetchReach-v4\nnote: <b>&amp;\n")
    with MetricsLogger(run_dir, tensorboard=False) as log:
        for update in range(0, 3000, 1000):
            metrics: dict[str, float | str] = {"loss/total": 1.0, "latent/std": 1.0, "latent/effective_rank": 5.0}
            if update < 2000:
                metrics[WARNING_KEY] = "The latents have collapsed to a point."
            log.log("train", metrics, update=update, decisions=2 * update, frames=4 * update)
    write_video(run_dir / "rollout.mp4", [np.full((16, 16, 3), 50, np.uint8)] * 3, fps=10)
    write_report(run_dir)
    return run_dir


@pytest.fixture
def run_dir(full_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(full_run, tmp_path / "run"))


@pytest.fixture
def _quick_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that ask what is drawn, not how it looks."""
    for name in (
        "success_bars",
        "return_bars",
        "learning_curves",
        "latent_health_plot",
        "imagination_plot",
        "imagination_error",
        "calibration_plot",
        "distance_plot",
        "goal_distance_plot",
        "probe_bars",
        "steps_to_goal_hist",
        "decision_time_hist",
    ):
        monkeypatch.setattr(plots, name, lambda *data, theme: b"picture")


def parse(run_dir: Path) -> Page:
    return Page(write_report(run_dir).read_text())


def edit(run_dir: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    data = read_json(run_dir / name)
    change(data)
    write_json(run_dir / name, data)


def test_a_full_run_fills_every_section(full_run: Path) -> None:
    text = (full_run / "report.html").read_text()
    assert text.startswith("<!doctype html>")
    page = Page(text)
    assert set(page.text) - {"header"} == SECTIONS
    verdict = f"Reached 100 of 100 held-out goals (95 % CI 96.4{DASH}100 %); random actions reach 4 %."
    header = ("FetchReach-v4", verdict, "2025-06-12 14:31 UTC", "3f2a9c1b7d5e", "100 held out", EVAL["command"])
    interval = f"{MINUS}2.5 to {MINUS}1.25"
    for part in header:
        assert part in page.text["header"]
    for part in ("no memory", "85 %", interval, "the simulator cannot be copied", "20.9 / 30.9", "19 / 28"):
        assert part in page.text["results"]
    assert page.pictures == {"success": 2, "learning": 1, "latents": 1, "imagination": 3, "knowledge": 1, "timing": 2}
    assert "310 states of 10 other episodes" in page.text["knowledge"]
    assert "did not vary: gravity." in page.text["knowledge"]
    assert "2,000 updates, 4,000 decisions, 8,000 frames" in page.text["learning"]
    assert "collapsed to a point. (Logged 2 times, from update 0 to 1,000.)" in page.text["latents"]
    assert "at update 2,000, was healthy again" in page.text["latents"]
    assert "note: <b>&amp;\n" in page.text["config"]
    for part in ("torch", "2.13.0", "numpy", "Example 9000"):
        assert part in page.text["machine"]
    assert "metrics.jsonl" in page.text["files"]
    assert "There is no" not in text


def test_the_page_needs_nothing_else(full_run: Path) -> None:
    text = (full_run / "report.html").read_text()
    page = Page(text)
    links = [value for _, name, value in page.attributes if name in ("src", "srcset", "href", "poster", "data")]
    assert len(links) == 2 * sum(page.pictures.values()) + 1
    assert all(value.startswith(("data:image/png;base64,", "data:video/mp4;base64,")) for value in links)
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert not any(tag in ("script", "link", "iframe", "object") for tag, _, _ in page.attributes)
    assert "<script" not in text
    video = {name for tag, name, _ in page.attributes if tag == "video"}
    assert video == {"autoplay", "loop", "muted", "playsinline", "controls", "src"}
    assert "prefers-color-scheme: dark" in text


def test_an_empty_folder_gives_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    page = parse(tmp_path)
    assert set(page.text) - {"header"} == SECTIONS
    assert "Not evaluated yet." in page.text["header"]
    assert page.pictures == {}
    for section, name in {
        "results": "eval.json",
        "video": "rollout.mp4",
        "success": "eval.json",
        "learning": "metrics.jsonl",
        "latents": "metrics.jsonl",
        "imagination": "diagnostics.json",
        "knowledge": "diagnostics.json",
        "timing": "eval.json",
        "config": "config.yaml",
        "machine": "run.json",
    }.items():
        assert name in page.text[section], section
    assert "empty" in page.text["files"]


@pytest.mark.parametrize(
    ("missing", "section"),
    [
        ("eval.json", "results"),
        ("metrics.jsonl", "learning"),
        ("diagnostics.json", "imagination"),
        ("rollout.mp4", "video"),
        ("config.yaml", "config"),
    ],
)
@pytest.mark.usefixtures("_quick_plots")
def test_each_file_is_optional(run_dir: Path, missing: str, section: str) -> None:
    (run_dir / missing).unlink()
    page = parse(run_dir)
    assert missing in page.text[section]
    assert section not in page.pictures
    for other, name in (("imagination", "diagnostics.json"), ("learning", "metrics.jsonl"), ("timing", "eval.json")):
        assert (other in page.pictures) == (name != missing)


@pytest.mark.usefixtures("_quick_plots")
def test_parts_of_the_diagnostics_are_optional(run_dir: Path) -> None:
    write_json(run_dir / "diagnostics.json", {"imagination_error": DIAGNOSTICS["imagination_error"]})
    assert parse(run_dir).pictures["imagination"] == 1
    write_json(run_dir / "diagnostics.json", {})
    assert "neither imagination" in parse(run_dir).text["imagination"]
    assert "linear_probe" in parse(run_dir).text["knowledge"]


@pytest.mark.usefixtures("_quick_plots")
def test_a_probe_that_could_not_be_says_why(run_dir: Path) -> None:
    probe: dict[str, Any] = {"names": [], "r2": [], "r2_learned": None, "reason": "nothing but pictures"}
    write_json(run_dir / "diagnostics.json", {"linear_probe": probe})
    assert "There is no linear probe: nothing but pictures." in parse(run_dir).text["knowledge"]
    write_json(run_dir / "diagnostics.json", {"linear_probe": {**probe, "names": ["g"], "r2": [None]}})
    page = parse(run_dir)
    assert "knowledge" not in page.pictures
    assert "did not vary: g." in page.text["knowledge"]


@pytest.mark.usefixtures("_quick_plots")
def test_a_probe_is_drawn_without_what_did_not_vary(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "probe_bars", lambda *data, theme: drawn.append(data) or b"picture")
    parse(run_dir)
    assert drawn[0] == (["x", "v"], [0.9, 0.1], [0.8, -0.1])


@pytest.mark.usefixtures("_quick_plots")
def test_goals_of_one_episode_are_counted_by_number(run_dir: Path) -> None:
    rows = [{"success_rate": r, "success_ci": [r, r], "given": 100, "reached": 1} for r in (0.9, 0.5)]
    rows.append({"success_rate": None, "success_ci": None, "given": 0, "reached": 0})
    before = parse(run_dir).pictures["success"]
    edit(run_dir, "eval.json", lambda data: data.update(goals_per_episode=3, per_goal=rows, success_rate=0.25))
    page = parse(run_dir)
    assert "Reached all 3 goals in 25 of 100 held-out episodes" in page.text["header"]
    assert page.pictures["success"] == before + 1


@pytest.mark.usefixtures("_quick_plots")
def test_a_goal_that_the_environment_does_not_know_has_distances_and_no_success(run_dir: Path) -> None:
    way = {"start": 40.0, "final": 1.5, "least": 0.75, "median": [40.0, 1.5], "low": [39.0, 1.0], "high": [41.0, 2.0]}
    block = {"success_rate": None, "success_ci": None, "return_mean": None, "return_ci": None, "steps_to_goal": None}
    block["distance"] = {"steps": way, "latent": way}
    edit(run_dir, "eval.json", lambda data: data.update({**block, "goal": "my/goal.png", "random": block, "arms": {}}))
    page = parse(run_dir)
    text = "predicted steps to the goal: 40 at the start, 1.5 at the end, 0.75 at the least (medians)"
    assert f"Toward the goal of my/goal.png, {text}. The environment does not know this goal" in page.text["header"]
    assert page.text["results"].count(text) == 2
    assert page.pictures["success"] == 2
    assert "success, 95" not in page.text["success"]


@pytest.mark.usefixtures("_quick_plots")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"goals": 40, "reached": True}, "to the one where it reached its goal, 40 times"),
        ({"goals": 40, "reached": False}, "to the one where it ended without reaching its goal, 40 times"),
        ({"rank_correlation": 0.876, "mean_absolute_error": 1.5}, "Rank correlation 0.876. Mean absolute error 1.5 st"),
    ],
)
def test_the_caption_of_distances_says_what_they_are(run_dir: Path, changes: dict[str, Any], expected: str) -> None:
    edit(run_dir, "diagnostics.json", lambda data: data["calibration"].update(changes))
    text = parse(run_dir).text["imagination"]
    assert expected in text
    assert "an upper bound of the shortest way" in text


@pytest.mark.usefixtures("_quick_plots")
def test_rewards_without_goals_give_a_verdict_on_the_return(run_dir: Path) -> None:
    def no_goals(data: dict[str, Any]) -> None:
        data |= {"objective": "reward", "success_rate": None, "success_ci": None, "steps_to_goal": None, "arms": {}}
        data |= {"return_mean": 812.0, "return_ci": [790.0, 830.0]}
        data["random"] |= {"success_rate": None, "return_mean": 12.5, "steps_to_goal": {"median": None, "values": []}}

    edit(run_dir, "eval.json", no_goals)
    page = parse(run_dir)
    verdict = f"Mean return 812 (95 % CI 790{DASH}830) over 100 held-out episodes; random actions get 12.5."
    assert verdict in page.text["header"]
    assert page.pictures["success"] == 1
    assert page.pictures["timing"] == 1
    assert "no goal was reached" in page.text["timing"]


@pytest.mark.usefixtures("_quick_plots")
def test_a_sparse_evaluation_is_shown_as_far_as_it_goes(run_dir: Path) -> None:
    write_json(run_dir / "eval.json", {"env": "A-v0", "success_rate": 0.5, "success_ci": [None, None]})
    page = parse(run_dir)
    assert "Reached 50 % of held-out goals." in page.text["header"]
    assert "not timed" in page.text["timing"]
    write_json(run_dir / "eval.json", {"env": "A-v0"})
    assert "neither success_rate nor return_mean" in parse(run_dir).text["success"]


@pytest.mark.usefixtures("_quick_plots")
def test_hostile_names_stay_text(run_dir: Path) -> None:
    def hostile(data: dict[str, Any]) -> None:
        data |= {"env": HOSTILE, "command": HOSTILE, "commit": HOSTILE, "time": HOSTILE}
        data |= {"arms": {HOSTILE: block(0.5, [3])}, "reason_true_dynamics": HOSTILE, "versions": {HOSTILE: HOSTILE}}
        data |= {"video": None, "video_reason": HOSTILE}

    edit(run_dir, "eval.json", hostile)
    (run_dir / "rollout.mp4").unlink()
    (run_dir / "config.yaml").write_text(HOSTILE)
    (run_dir / "<script>.txt").write_text("x")
    with MetricsLogger(run_dir, tensorboard=False) as log:
        log.log("train", {WARNING_KEY: HOSTILE}, update=9999, decisions=0, frames=0)
    path = write_report(run_dir)
    text = path.read_text()
    assert "<script" not in text
    assert "<img src=http" not in text
    page = Page(text)
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    for section in ("header", "results", "video", "config", "machine", "latents"):
        assert HOSTILE in page.text[section], section


def test_a_lone_surrogate_does_not_stop_the_page(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"env": "bad \\ud800 name"}')
    assert "bad ? name" in parse(tmp_path).text["header"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("eval.json", '{"env": "A', r"eval\.json"),
        ("eval.json", "[]", "expected a JSON object"),
        ("eval.json", '{"success_rate": "high"}', "success_rate must be a number or null, got 'high'"),
        ("eval.json", '{"success_rate": true}', "success_rate must be a number"),
        ("eval.json", '{"success_rate": 1, "success_ci": [1]}', "success_ci must be a list of 2 numbers"),
        ("eval.json", '{"random": {"return_mean": []}}', r"random\.return_mean must be a number"),
        ("eval.json", '{"arms": {"a": 3}}', r"arms\.a must be an object"),
        ("eval.json", '{"decision_ms": {"values": ["x"]}}', r"decision_ms\.values must be a list of numbers"),
        ("run.json", "{", r"run\.json"),
        ("metrics.jsonl", "junk\n{}\n", r"metrics\.jsonl: line 1"),
        ("diagnostics.json", '{"imagination": {"names": 3}}', r"imagination\.names must be a list of names"),
        ("diagnostics.json", '{"imagination": {"names": ["a"], "real": [[1]]}}', r"diagnostics\.json: real must be"),
        ("diagnostics.json", '{"calibration": {"predicted": [1], "true": []}}', r"diagnostics\.json: true must be"),
        ("diagnostics.json", '{"linear_probe": {"names": 3}}', r"linear_probe\.names must be a list of names"),
        ("diagnostics.json", '{"linear_probe": {"names": ["a"]}}', r"linear_probe\.r2 must be a list of numbers"),
        ("diagnostics.json", '{"linear_probe": {"names": ["a"], "r2": []}}', r"r2 must be a list of 1 numbers"),
    ],
)
def test_a_corrupt_file_is_named_and_the_old_page_stays(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / "report.html").write_text("old")
    (tmp_path / name).write_text(content)
    with pytest.raises(FileError, match=message):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_text() == "old"


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="run_dir must be the folder of a run"):
        write_report(tmp_path / "nowhere")


def test_a_video_outside_the_run_or_too_large_is_not_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "rollout.mp4").write_bytes(b"of an evaluation before")
    write_json(run_dir / "eval.json", {"video": None, "video_reason": "not this time"})
    assert "No video: not this time" in parse(run_dir).text["video"]
    write_json(run_dir / "eval.json", {"video": "../secret.mp4"})
    assert "outside the run folder" in parse(run_dir).text["video"]
    (run_dir / "eval.json").unlink()
    (run_dir / "rollout.mp4").write_bytes(b"x" * 2048)
    monkeypatch.setattr(html, "_MAX_VIDEO_BYTES", 1024)
    assert "2.0 KiB, too much" in parse(run_dir).text["video"]


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    write_json(tmp_path / "eval.json", {"env": "A-v0", "success_rate": 0.5, "episodes": 10})
    first = write_report(tmp_path).read_bytes()
    assert write_report(tmp_path).read_bytes() == first


def test_folders_are_summed_and_links_and_hidden_files_left_out(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "a").write_bytes(b"x" * 1024)
    (tmp_path / "memory" / "b").write_bytes(b"x" * 512)
    (tmp_path / ".hidden").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "memory")
    text = parse(tmp_path).text["files"]
    assert "memory/" in text
    assert "1.5 KiB in 2 files" in text
    assert "hidden" not in text
    assert "link" not in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.0, "59 s"), (61.0, "1 min 1 s"), (3 * 3600 + 125, "3 h 2 min")]
)
def test_training_time_is_readable(tmp_path: Path, seconds: float, text: str) -> None:
    record = {"phase": "train", "update": 1, "decisions": 2, "frames": 3, "seconds": seconds, "time": 0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    page = parse(tmp_path)
    assert f"in {text}." in page.text["learning"]
    assert "nothing to draw" in page.text["learning"]


def test_what_decisions_were_for_is_said_beside_the_planner(run_dir: Path) -> None:
    assert "decisions by mode" not in parse(run_dir).text["results"]
    plan = {"mode/plan": 0.12, "mode/memory": 0.88, "mode/explore": 0.0, "plan/cost": 3.0}
    edit(run_dir, "eval.json", lambda data: data.update(plan=plan))
    assert "decisions by mode: plan 12 %, memory 88 %" in parse(run_dir).text["results"]
