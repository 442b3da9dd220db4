"""Whether the memory stands being killed, wherever the kill falls.

A child process appends episodes, notes, forgets and compacts at random, and says through a pipe what it is about to do
and what it has done. Another reads all the while and checks what it reads. After a random time the writer is killed
with SIGKILL, in half of the rounds the reader too; then everything is compared with what the writer had said:

- every episode whose append had returned is there, bit for bit, unless it was forgotten;
- every episode whose forgetting had returned is gone, and is said to be;
- what was under way is done as a whole or not at all;
- `verify()` finds nothing.

    python benchmarks/memory_crash.py --kills 200

What a kill cannot show is a power cut: the system writes what a killed process had handed to it.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from forethought.agent.files import write_json
from forethought.agent.memory.store import Episode, EpisodeStore, GivenUpError, MemoryOptions
from forethought.agent.provenance import command, commit, machine, versions
from forethought.envs.spec import ArraySpec, EnvSpec

SPEC = EnvSpec("Arm-v0", {"state": ArraySpec((8,), "float32")}, (-1.0,) * 2, (1.0,) * 2, 0.05, 10_000)
ACTIONS = ("append", "note", "forget", "compact")
SHARES = (0.5, 0.15, 0.15, 0.2)
KEPT = 60
"""Episodes above which more are forgotten than appended."""


def episode(number: int) -> Episode:
    """The episode of that number, always the same; every 17th is long enough for several blocks."""
    rng = np.random.default_rng(number)
    length = 12_000 if number % 17 == 0 else int(rng.integers(1, 300))
    return Episode(
        obs={"state": rng.standard_normal((length + 1, 8), dtype=np.float32)},
        actions=rng.standard_normal((length, 2), dtype=np.float32),
        rewards=rng.standard_normal(length, dtype=np.float32),
        success=rng.random(length) < 0.5,
        terminated=bool(number % 2),
        truncated=False,
        meta={"number": number},
    )


def same(one: Episode, other: Episode) -> bool:
    """Whether two episodes are equal, bit for bit."""
    first, second = one.arrays(), other.arrays()
    equal = first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)
    return equal and (one.terminated, one.truncated, one.meta) == (other.terminated, other.truncated, other.meta)


Say = Callable[..., object]


def write(folder: Path, say: Say, seed: int, sync: bool) -> None:
    """Change the store at random for ever."""
    rng = np.random.default_rng(seed)
    with EpisodeStore.open(folder, "a", SPEC, MemoryOptions(map_size=1 << 20, sync=sync)) as store:
        while True:
            kept = store.ids()
            action = "forget" if len(kept) > KEPT else rng.choice(ACTIONS, p=SHARES)
            if action == "append":
                ids = list(range(store.next_id, store.next_id + int(rng.integers(1, 4))))
                say("begin", action, ids)
                store.append_many([episode(i) for i in ids], [f"run/{i}" for i in ids])
                say("end", action, ids)
            elif action == "forget" and len(kept):
                ids = sorted(rng.choice(kept, size=min(len(kept), int(rng.integers(1, 7))), replace=False).tolist())
                say("begin", action, ids)
                store.forget(ids)
                say("end", action, ids)
            elif action == "note":
                text = "x" * int(rng.integers(1, 30_000))
                say("begin", action, len(text))
                store.annotate({"note": text.encode(), "again": text.encode()})
                say("end", action, len(text))
            elif action == "compact":
                say("begin", action, None)
                store.compact()
                say("end", action, None)


def read(folder: Path, say: Say, seed: int) -> None:
    """Read at random for ever, and say what is wrong."""
    rng = np.random.default_rng(seed)
    with EpisodeStore.open(folder) as store:
        while True:
            store.refresh()
            ids = store.ids()
            for number in rng.choice(ids, size=min(len(ids), 4), replace=False).tolist():
                try:
                    if not same(store.get(number), episode(number)):
                        say("wrong", "read", number)
                except GivenUpError:  # meanwhile
                    say("gone", "read", number)
            if store.note("note") != store.note("again"):
                with store.reading():  # the two may be of different moments, unless they are read in one
                    if store.note("note") != store.note("again"):
                        say("wrong", "note", None)
            say("end", "read", len(ids))


@dataclass
class Child:
    """A forked process and what it says, a line of JSON each."""

    pid: int
    pipe: int
    text: bytes = b""

    @classmethod
    def fork(cls, work: Callable[[Say], None]) -> "Child":
        """Start `work(say)` in a child process."""
        pipe, end = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
            pid = os.fork()
        if pid == 0:
            try:
                os.close(pipe)
                work(lambda *words: os.write(end, json.dumps(words).encode() + b"\n"))
            except BaseException as error:
                os.write(end, json.dumps(["wrong", "raised", repr(error)]).encode() + b"\n")
            finally:
                os._exit(1)
        os.close(end)
        return cls(pid, pipe)

    def wait(self) -> None:
        """Until the first line is there."""
        self.text += os.read(self.pipe, 1 << 16)

    def kill(self) -> list[Any]:
        """End it, at once; returns all that it said."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        while chunk := os.read(self.pipe, 1 << 16):
            self.text += chunk
        os.close(self.pipe)
        lines = self.text.split(b"\n")[:-1]
        return [json.loads(line) for line in lines]


def happened(action: str, value: Any, kept: set[int], note: int | None) -> bool:
    """Whether what was under way is seen to have been done; half of it counts as not."""
    if action == "append":
        return set(value) <= kept
    if action == "forget":
        return not set(value) & kept
    return action == "note" and note == value


@dataclass
class Expected:
    """What must be in the store, as far as the writer has said."""

    there: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    note: int | None = None
    under_way: tuple[str, Any] | None = None

    def take_in(self, said: list[Any]) -> Counter[str]:
        """What a writer said before it was killed; returns how often it did what."""
        done: Counter[str] = Counter()
        self.under_way = None
        for when, action, value in said:
            if when == "begin":
                self.under_way = (action, value)
                continue
            done[action] += 1
            self.under_way = None
            self.settle(action, value)
        return done

    def settle(self, action: str, value: Any) -> None:
        """That this was done."""
        if action == "append":
            self.there |= set(value)
        elif action == "forget":
            self.there -= set(value)
            self.gone |= set(value)
        elif action == "note":
            self.note = value

    def faults(self, folder: Path) -> list[str]:
        """What is not as it must be; what was under way is settled by what is found."""
        with EpisodeStore.open(folder) as store:
            found = [f"verify: {problem}" for problem in store.verify()]
            leaving = self.under_way[1] if self.under_way and self.under_way[0] == "forget" else []
            missing = self.there - set(store.ids().tolist()) - set(leaving)
            if missing:
                found.append(f"episodes {sorted(missing)} cannot be seen")
        # What was committed and not said yet, readers may see only after the next writer has come.
        EpisodeStore.open(folder, "a").close()
        with EpisodeStore.open(folder) as store:
            found += [f"verify: {problem}" for problem in store.verify()]
            kept = set(store.ids().tolist())
            note = store.note("note")
            if store.note("again") != note:
                found.append("of two notes of one commit, one is there")
            length = None if note is None else len(note)
            if self.under_way is not None:
                action, value = self.under_way
                if happened(action, value, kept, length):
                    self.settle(action, value)
            if kept != self.there:
                found.append(f"episodes {sorted(self.there - kept)} are lost, {sorted(kept - self.there)} too many")
            if length != self.note:
                found.append(f"a note of {self.note} bytes is lost, {length} are there")
            found += [f"episode {i} is another" for i in sorted(kept) if not same(store.get(i), episode(i))]
            found += [f"key of {i} is lost" for i in self.there | self.gone if store.find(f"run/{i}") != i]
            for i in sorted(self.gone)[-20:]:
                try:
                    store.get(i)
                    found.append(f"episode {i} was forgotten and can be read")
                except GivenUpError:
                    pass
        return found


def measure(folder: Path, kills: int, seed: int, longest_s: float) -> dict[str, Any]:
    """Kill that often; what was done, where the kills fell, and every fault."""
    rng = np.random.default_rng(seed)
    expected = Expected()
    faults: list[str] = []
    done: Counter[str] = Counter()
    fell: Counter[str] = Counter()
    reads: Counter[str] = Counter()
    EpisodeStore.open(folder, "a", SPEC).close()
    reader: Child | None = None
    readers_killed = left_over = 0

    def settle(said: list[Any]) -> None:
        reads.update(when for when, _, _ in said)
        faults.extend(f"reader: {line}" for line in said if line[0] == "wrong")

    for round_ in range(kills):
        if reader is None:
            reader = Child.fork(lambda say, s=seed + round_: read(folder, say, s))  # type: ignore[misc]
        writer = Child.fork(lambda say, s=seed + round_: write(folder, say, s, bool(s % 2)))  # type: ignore[misc]
        writer.wait()
        time.sleep(float(rng.random()) * longest_s)
        said = writer.kill()
        faults += [f"round {round_}: writer: {line}" for line in said if line[0] == "wrong"]
        done.update(expected.take_in([line for line in said if line[0] != "wrong"]))
        fell[expected.under_way[0] if expected.under_way else "between"] += 1
        left_over += (folder / "compacting").exists()
        faults += [f"round {round_}: {fault}" for fault in expected.faults(folder)]
        if rng.random() < 0.5:
            settle(reader.kill())
            reader, readers_killed = None, readers_killed + 1
    if reader is not None:
        settle(reader.kill())
    with EpisodeStore.open(folder) as store:
        appended, kept = store.next_id, len(store)
    return {
        "kills_of_writers": kills,
        "kills_of_readers": readers_killed,
        "kills_fell_in": dict(sorted(fell.items())),
        "done": dict(sorted(done.items())),
        "half_done_compactions_found": left_over,
        "episodes_appended": appended,
        "episodes_kept": kept,
        "rounds_of_reading": reads["end"],
        "reads_of_what_was_just_forgotten": reads["gone"],
        "faults": faults,
    }


def main() -> int:
    """Kill, print, and write the results; the exit status is 1 where a fault was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--longest-s", type=float, default=0.4, help="seconds that a writer lives at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "memory_crash.json")
    arguments = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder) / "memory", arguments.kills, arguments.seed, arguments.longest_s)
    print(json.dumps(result, indent=1))
    write_json(
        arguments.out,
        {
            "command": f"python benchmarks/{command()}",
            "commit": commit(),
            "options": {"kills": arguments.kills, "longest_s": arguments.longest_s, "seed": arguments.seed},
            "seconds": round(time.perf_counter() - began, 1),
            "results": result,
            "versions": versions(),
            "machine": machine(),
        },
    )
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
