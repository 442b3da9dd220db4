"""What `forethought memory <action>` does. What is heavy is imported where it is needed, so that `--help` is quick."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ... import UnknownNameError

if TYPE_CHECKING:
    from .store import EpisodeStore

Add = Callable[[str, str], argparse.ArgumentParser]


def add_actions(add: Add) -> None:
    """Make a parser of every action; `add(name, help)` makes an empty one."""
    folder: dict[str, Any] = {"type": Path, "help": "folder of the memory"}
    ls = add("ls", "the last episodes: length, policy, success, seed")
    ls.add_argument("dir", **folder)
    ls.add_argument("--limit", type=_count, default=20, help="rows (default 20, 0 for all)")
    inspect = add("inspect", "the memory, or an episode, as JSON")
    inspect.add_argument("dir", **folder)
    inspect.add_argument("--episode", type=int, help="this episode")
    stats = add("stats", "episodes, transitions, success and returns by environment; notes; bytes")
    stats.add_argument("dir", **folder)
    stats.add_argument("--json", action="store_true", help="as JSON")
    verify = add("verify", "read everything and compare checksums; exit status 1 if anything is damaged")
    verify.add_argument("dir", **folder)
    forget = add("forget", "take episodes away, for good; the numbers of the others stay")
    forget.add_argument("dir", **folder)
    _add_selection(forget, required=True)
    forget.add_argument("--dry-run", action="store_true", help="only say what would be taken away")
    forget.add_argument("--yes", action="store_true", help="do not ask")
    compact = add("compact", "rewrite the file without the room of what is gone")
    compact.add_argument("dir", **folder)
    compact.add_argument("--run", type=Path, help="first merge landmarks that are one place to the model of this run")
    compact.add_argument("--checkpoint", default="best", help="best (default) or last, with --run")
    formats: dict[str, Any] = {"choices": ("minari", "lerobot"), "required": True, "help": "whose"}
    export = add("export", "write episodes of one environment as a dataset of another tool")
    export.add_argument("dir", **folder)
    export.add_argument("out", type=Path, help="folder to make; for Minari named like a dataset: arm-v0")
    export.add_argument("--format", **formats)
    _add_selection(export, required=False)
    into = add("import", "append the episodes of a dataset of another tool")
    into.add_argument("source", type=Path, help="folder of the dataset")
    into.add_argument("dir", type=Path, help="folder of the memory, made where there is none")
    into.add_argument("--format", **formats)


def _add_selection(parser: argparse.ArgumentParser, *, required: bool) -> None:
    which = parser.add_mutually_exclusive_group(required=required)
    which.add_argument("--episodes", type=_ranges, metavar="3,5-9", help="these numbers, the last of a range included")
    which.add_argument("--env", metavar="ID", help="those of this environment")
    which.add_argument("--before", type=_count, metavar="N", help="those with smaller numbers")


def run(parsed: argparse.Namespace, console: Console) -> int:
    """Carry out the action of a parsed command line; returns the exit code."""
    return _ACTIONS[parsed.action](parsed, console)


def _ls(parsed: argparse.Namespace, console: Console) -> int:
    from .store import EpisodeStore

    with EpisodeStore.open(parsed.dir) as store:
        ids = store.ids().tolist()
        table = Table("episode", "env", "steps", "policy", "success", "seed", title=escape(str(store.path)))
        for i in ids[-parsed.limit :] if parsed.limit else ids:
            info = store.info(i)
            meta = info["meta"]
            table.add_row(
                str(i), escape(info["env_id"]), str(info["length"]), escape(str(meta.get("policy", "-"))),
                "yes" if info["success"] else "no", str(meta.get("seed", "-")),
            )  # fmt: skip
        console.print(table)
        shown = f" (the last {parsed.limit} are shown, --limit 0 shows all)" if 0 < parsed.limit < len(ids) else ""
        gone = f", {store.num_given_up} others were given up" if store.num_given_up else ""
        _say(console, f"{len(ids)} episodes, {store.num_transitions} transitions{shown}{gone}")
    return 0


def _inspect(parsed: argparse.Namespace, console: Console) -> int:
    from .store import EpisodeStore

    with EpisodeStore.open(parsed.dir) as store:
        console.print_json(json.dumps(store.stats() if parsed.episode is None else store.info(parsed.episode)))
    return 0


def _verify(parsed: argparse.Namespace, console: Console) -> int:
    from .store import EpisodeStore

    with EpisodeStore.open(parsed.dir) as store:
        problems = store.verify()
        for problem in problems:
            _say(console, problem)
        _say(console, f"{parsed.dir}: {len(store)} episodes, {len(problems)} problems")
    return 1 if problems else 0


def _stats(parsed: argparse.Namespace, console: Console) -> int:
    from .store import EpisodeStore

    with EpisodeStore.open(parsed.dir) as store:
        found = summarize(store)
    if parsed.json:
        console.print_json(json.dumps(found))
        return 0
    table = Table("env", title=escape(str(parsed.dir)))
    timed = any(row["first_time"] for row in found["environments"])
    for column in ("episodes", "transitions", "success", "mean return", *(["first", "last"] if timed else [])):
        table.add_column(column, justify="right")
    for row in found["environments"]:
        cells = ["-", "-"] if not row["episodes"] else [f"{row['success_share']:.1%}", f"{row['mean_return']:.4g}"]
        cells += [str(row["first_time"] or "-"), str(row["last_time"] or "-")] if timed else []
        table.add_row(escape(row["env_id"]), str(row["episodes"]), str(row["transitions"]), *cells)
    console.print(table)
    if found["notes"]:
        notes = Table("note", "bytes")
        notes.columns[1].justify = "right"
        for note in found["notes"]:
            notes.add_row(escape(note["name"]), str(note["bytes"]))
        console.print(notes)
    _say(
        console,
        f"{found['episodes']} episodes ({found['given_up']} given up), {found['transitions']} transitions, "
        f"{_size(found['episode_bytes'])} of episodes in a file of {_size(found['bytes'])}; "
        f"version {found['version']}, made {found['created']}",
    )
    return 0


def summarize(store: "EpisodeStore") -> dict[str, Any]:
    """What `EpisodeStore.stats` says, more of every environment, and the notes, as JSON values.

    Of every environment also `success_share` and `mean_return` (None without episodes), and `first_time` and
    `last_time`: the least and greatest `time` in the `meta` of its episodes, which is text (ISO 8601), or None.
    Reads the header of every episode.
    """
    from .store import GivenUpError

    found = store.stats()
    rows = []
    for spec, row in zip(store.specs, found["environments"], strict=True):
        infos = []
        for i in store.ids(spec=spec, exactly=True).tolist():
            try:
                infos.append(store.info(i))
            except GivenUpError:  # by a writer meanwhile
                continue
        times = sorted(str(info["meta"]["time"]) for info in infos if "time" in info["meta"])
        rows.append(
            {
                **row,
                "success_share": sum(info["success"] for info in infos) / len(infos) if infos else None,
                "mean_return": sum(info["total_reward"] for info in infos) / len(infos) if infos else None,
                "first_time": times[0] if times else None,
                "last_time": times[-1] if times else None,
            }
        )
    notes = [{"name": name, "bytes": len(store.note(name) or b"")} for name in store.notes()]
    return {**found, "environments": rows, "notes": notes}


def _forget(parsed: argparse.Namespace, console: Console) -> int:
    from .store import EpisodeStore

    with EpisodeStore.open(parsed.dir) as store:  # for reading: mode "a" would make a memory where there is none
        ids = _selected(store, parsed)
        size = sum(store.info(i)["num_bytes"] for i in ids)
        what = f"{len(ids)} of {len(store)} episodes ({int(store.lengths(ids).sum())} transitions, {_size(size)})"
    if parsed.dry_run or not ids:
        _say(console, f"{parsed.dir}: would forget {what}")
        return 0
    if not parsed.yes:
        try:
            answer = console.input(escape(f"{parsed.dir}: forget {what} for good? [y/N] "))
        except EOFError:  # nobody is there to answer
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            _say(console, "nothing was forgotten (--yes does not ask)")
            return 1
    with EpisodeStore.open(parsed.dir, "a") as store:
        gone = store.forget(ids)
        _say(console, f"{parsed.dir}: forgot {len(gone)} episodes, {len(store)} are left; `compact` shrinks the file")
    return 0


def _selected(store: "EpisodeStore", parsed: argparse.Namespace) -> list[int]:
    """Numbers of the episodes that are asked for and there."""
    from .store import StoreError

    kept: list[int] = store.ids(parsed.env).tolist()
    if parsed.env is not None:
        known = [spec.env_id for spec in store.specs]
        if parsed.env not in known:
            raise UnknownNameError("environment", parsed.env, known)
    if parsed.before is not None:
        return [i for i in kept if i < parsed.before]
    if parsed.episodes is not None:
        for wanted in parsed.episodes:
            if wanted.stop > store.next_id:
                raise StoreError(f"episodes must be below {store.next_id}, got {wanted.stop - 1}")
        return [i for i in kept if any(i in wanted for wanted in parsed.episodes)]
    return kept


def compact(parsed: argparse.Namespace, console: Console) -> int:
    """Rewrite the file of a memory without the room of what is gone."""
    from .store import EpisodeStore

    EpisodeStore.open(parsed.dir).close()  # mode "a" would make a memory where there is none
    with EpisodeStore.open(parsed.dir, "a") as store:
        before, after = store.compact()
    _say(console, f"{parsed.dir}: {before} bytes before, {after} after ({after / before:.1%})")
    return 0


def _export(parsed: argparse.Namespace, console: Console) -> int:
    from .interop import export_episodes
    from .store import EpisodeStore

    with EpisodeStore.open(parsed.dir) as store:
        ids = _selected(store, parsed)
        export_episodes(store, ids, parsed.out, parsed.format)
        _say(console, f"{parsed.out}: {len(ids)} episodes, {int(store.lengths(ids).sum())} transitions")
    return 0


def _import(parsed: argparse.Namespace, console: Console) -> int:
    from .interop import import_episodes, read_dataset
    from .store import EpisodeStore

    dataset = read_dataset(parsed.source, parsed.format)  # before a memory is made for it
    with EpisodeStore.open(parsed.dir, "a") as store:
        count, new = import_episodes(dataset, store)
    known = "" if new == count else f", {count - new} were known under their keys"
    _say(console, f"{parsed.dir}: {new} episodes imported{known}")
    return 0


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {number}")
    return number


def _ranges(text: str) -> Sequence[range]:
    """`3,5-9` as ranges."""
    found = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            found.append(range(int(first), int(last or first) + 1))
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be numbers and ranges like 3,5-9, got {text!r}") from None
        if not found[-1]:
            raise argparse.ArgumentTypeError(f"a range must not end before it begins, got {part}")
    return found


def _size(count: int) -> str:
    """A number of bytes for a person."""
    power = min(len(str(int(count))) - 1, 12) // 3
    return f"{count / 1000**power:.{min(power, 1)}f} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


def _say(console: Console, text: str) -> None:
    """One plain line, however long."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


_ACTIONS: dict[str, Callable[[argparse.Namespace, Console], int]] = {
    "ls": _ls,
    "inspect": _inspect,
    "stats": _stats,
    "verify": _verify,
    "forget": _forget,
    "compact": compact,
    "export": _export,
    "import": _import,
}
