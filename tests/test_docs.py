"""What the documents say is so: links lead somewhere, code compiles, commands exist, figures come from the results."""

import importlib
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import forethought
from forethought import ForethoughtError
from forethought.agent.bench.budget import contender
from forethought.agent.cli import _BENCH_LISTS, _SHORT, _SHORT_DRIVE, build_parser, flags_last, with_brackets
from forethought.agent.jobs.bench import bench_tasks
from forethought.configs.register import load
from forethought.configs.schema import BenchConfig, Config, DriveConfig, EvalConfig, SweepConfig
from forethought.configs.sweeps import read_sweep

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
SETUP = ["pip install -e . && forethought quickstart", "pip install -e '.[test]' && pytest"]
SHELL = ("", "bash", "sh")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def fenced(page: Path) -> Iterator[tuple[str, str]]:
    """Fenced blocks as `(language, text)`."""
    yield from re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path) -> list[str]:
    """Links of a page that lead nowhere inside the repository."""
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            wrong.append(target)
    return wrong


# -- links -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One title\n[a](#one-title) [b](page.md#one-title) [c](gone.md) [d](#gone) [e](https://x.org)\n")
    assert broken(page) == ["gone.md", "#gone"]


def test_every_document_can_be_found_from_the_readme() -> None:
    reached, queue = set(), [ROOT / "README.md"]
    while queue:
        page = queue.pop()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", prose(page))]
            queue += [(page.parent / link).resolve() for link in links if link and ":" not in link]
    assert set(PAGES) - reached == set()


# -- code and commands -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_compiles(page: Path) -> None:
    for number, (language, text) in enumerate(fenced(page)):
        if language == "python":
            compile(text, f"{name(page)}, block {number}", "exec")


def commands() -> list[tuple[str, str]]:
    """Every shell command on every page, in blocks and in running text, as `(page, command)`."""
    found = []
    for page in PAGES:
        lines = [line for language, text in fenced(page) if language in SHELL for line in text.splitlines()]
        lines += re.findall(r"`((?:forethought|python|pip|pytest|ruff|mypy) [^`]+)`", prose(page))
        for line in lines:
            text = re.split(r"\s{2,}", line.strip())[0]  # an explanation may follow after two spaces
            if re.match(r"(forethought|python|pip|pytest|ruff|mypy|pre-commit|source|\.ci/)", text):
                found += [(name(page), part.strip()) for part in re.split(r"&&|;", text)]
    return sorted(set(found))


def check(command: str) -> None:
    """Raise if a command line is not one that exists."""
    words = shlex.split(command.replace("…", "x").replace("...", "x"))
    program, rest = words[0], words[1:]
    if program == "forethought":
        check_forethought(rest)
    elif program == "python" and rest[0] != "-m":
        assert (ROOT / rest[0]).is_file() or (ROOT / "examples" / rest[0]).is_file(), rest[0]
    elif program.startswith(".ci/"):
        assert (ROOT / program).stat().st_mode & 0o100, f"{program} cannot be executed"
    elif program == "pip":
        assert rest[0] == "install"
    else:
        assert program in ("pytest", "ruff", "mypy", "pre-commit", "source", "python")


def check_forethought(arguments: list[str]) -> None:
    if not arguments or arguments[0] == "<command>" or arguments == ["--version"]:
        return
    parsed = build_parser().parse_args(flags_last(arguments))
    if getattr(parsed, "options", False):
        return
    if getattr(parsed, "multirun", False):
        parsed.overrides = first_trial(parsed.command, parsed.overrides)
    if parsed.command in ("train", "collect"):
        load(Config, [o for o in parsed.overrides if o != "resume=auto"])
    elif parsed.command == "eval":
        pairs = [o.partition("=") for o in parsed.overrides]
        load(EvalConfig, [f"{_SHORT.get(key, key)}={value}" for key, _, value in pairs])
    elif parsed.command == "bench" and parsed.overrides != ["tasks"]:
        action, *overrides = parsed.overrides
        assert action == "planners"
        config = load(BenchConfig, with_brackets(overrides))
        bench_tasks(config.tasks)
        for label in config.planners:
            contender(label, config.options.get(label, {}))
    elif parsed.command == "drive" and parsed.overrides:
        pairs = [o.partition("=") for o in parsed.overrides]
        load(DriveConfig, [f"{_SHORT_DRIVE.get(key, key)}={value}" for key, _, value in pairs])


def first_trial(command: str, overrides: list[str]) -> list[str]:
    """What a sweep begins with."""
    action = overrides[:1] if command == "bench" else []
    own = [o for o in overrides if o.startswith(("sweep.", "out="))]
    load(SweepConfig, own)
    fixed, space = read_sweep([o for o in overrides if o not in [*action, *own]], _BENCH_LISTS)
    assert space, "nothing is varied"
    return [*action, *fixed, *(f"{key}={v.first()}" for key, v in space.items())]


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_exist(page: str, command: str) -> None:
    check(command)


@pytest.mark.parametrize(
    "command",
    [
        "forethought trian env=X out=y",
        "forethought train env=X planer=icem",
        "forethought eval run=x planner.num_elite=3",
        "forethought drive run=x drive.step=3",
        "forethought memory look runs/x",
        "forethought bench robots",
        "forethought train -m env=X seed=1",
        "forethought train -m env=X seed=1,2 sweep.trails=3",
        "forethought bench planners tasks=pendulm",
        "forethought bench planners planners=mppi options.mppi.temprature=1",
        "python benchmarks/gone.py",
        "make install",
    ],
)
def test_a_wrong_command_is_seen(command: str) -> None:
    with pytest.raises((ForethoughtError, AssertionError)):
        check(command)


def test_the_pages_hold_commands_at_all() -> None:
    programs = {command.split()[0] for _, command in commands()}
    assert {"forethought", "python", "pip", "pytest", ".ci/run"} <= programs
    assert len(commands()) > 30


# -- README ------------------------------------------------------------------------------------------------------------


def test_readme_shows_two_set_up_lines_each_in_a_block_of_its_own() -> None:
    blocks = [text for _, text in fenced(ROOT / "README.md") if "pip install -e" in text]
    assert blocks == [f"{line}\n" for line in SETUP]


def test_ci_finds_the_test_line_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    program = re.search(r"line=\$\((awk '.*?' README\.md)\)", script)
    assert program is not None
    found = subprocess.run(program[1], shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == SETUP[1]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("render_tables")


def test_figures_are_those_of_the_results(tables: ModuleType) -> None:
    assert len(tables.PAGES) > 1
    for page in tables.PAGES:
        text = (ROOT / page).read_text()
        assert "<!-- results:" in text, page
        assert tables.render(text, ROOT / "benchmarks" / "results") == text, (
            f"{page}: python benchmarks/render_tables.py"
        )


def test_no_figures_outside_the_rendered_tables() -> None:
    text = re.sub(r"<!-- results:.*?<!-- /results -->", "", prose(ROOT / "README.md"), flags=re.DOTALL)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows
    assert [row for row in rows if re.search(r"\d\s*(%|ms|s\b|min\b|steps)", row)] == []


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_decisions_are_short_numbered_and_complete() -> None:
    pages = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = page.read_text()
        assert text.startswith(f"# {int(page.name[:4])}. "), page.name
        assert 20 <= len(text.splitlines()) <= 40, page.name
        for part in ("Status: ", "## Context", "## Decision", "## Consequences", "## Rejected"):
            assert part in text, f"{page.name} lacks {part}"


def test_every_layer_of_the_import_rules_is_documented() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    free = ("agent/build.py", "agent/jobs", "agent/cli.py", "agent/doctor.py", "agent/hub.py")
    for layer in ("planners", "envs", "agent", "agent/training", *free):
        assert re.search(rf"^\| .*`{layer}`", text, re.MULTILINE), layer


def test_the_reference_has_every_public_name_and_only_what_exists() -> None:
    names = re.findall(r"^::: forethought\.(\S+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    for path in names:
        module, _, attribute = f"forethought.{path}".rpartition(".")
        assert getattr(importlib.import_module(module), attribute).__doc__, path
    public = set(forethought.__all__) - {"__version__"}
    assert public <= {path.rpartition(".")[2] for path in names}


def test_changelog_knows_this_version() -> None:
    assert f"## [{forethought.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "images").glob("*.svg")), ids=name)
def test_drawings_are_self_contained(path: Path) -> None:
    text = path.read_text()
    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"<script|href=|@import|url\((?!#)", text)


def test_pre_commit_needs_no_network() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    entries = {hook["id"]: hook["entry"] for hook in config["repos"][0]["hooks"]}
    assert set(entries) == {"ruff-check", "ruff-format", "types", "tests"}
    assert all(hook["language"] == "system" for hook in config["repos"][0]["hooks"])


def test_version_of_python_is_the_same_everywhere() -> None:
    assert sys.version_info >= (3, 11)
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text()
    assert "3.11 or newer" in (ROOT / ".ci" / "run").read_text()
