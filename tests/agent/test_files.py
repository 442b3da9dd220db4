import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forethought import ForethoughtError
from forethought.agent.files import FileError, LockedError, lock, read_json, write_bytes, write_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(data=st.dictionaries(st.text(), JSON, max_size=4))
def test_json_round_trip(tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "round.json"
    write_json(path, data)
    assert read_json(path) == data


def test_writing_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"one")

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"forethought.agent.files.os.{call}", fail)
    with pytest.raises(FileError, match=r"cannot write .*a\.bin: No space left on device"):
        write_bytes(path, b"two")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"cannot write .*none.a\.bin: No such file or directory"):
        write_bytes(tmp_path / "none" / "a.bin", b"")
    assert issubclass(FileError, ForethoughtError)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_has_no_infinities(tmp_path: Path, value: float) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(FileError, match=r"cannot write .*a\.json"):
        write_json(path, {"x": [value]})
    assert read_json(path) == {"x": 1}


def test_json_is_readable_by_people(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"x": [1], "y": "z"})
    text = path.read_text()
    assert text.endswith("}\n")
    assert len(text.splitlines()) > 2
    assert json.loads(text) == {"x": [1], "y": "z"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "Expecting value"),
        (b'{"x": 1', "Expecting"),
        (b"[1, 2]", "expected a JSON object, got list"),
        (b"\xff\xfe\x00", "can't decode"),
    ],
)
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileError, match=rf"cannot read .*a\.json: .*{message}"):
        read_json(path)


HOLD = """
import sys
from pathlib import Path
from forethought.agent.files import lock
file = lock(Path(sys.argv[1]))
print(flush=True)
sys.stdin.read()
"""


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(LockedError, match=rf"lock is locked by another process \(pid {holder.pid}\)") as caught:
            lock(path)
        assert caught.value.holder == str(holder.pid)
        holder.kill()
    lock(path).close()
    lock(path).close()
    with pytest.raises(FileError, match="No such file or directory"):
        lock(tmp_path / "missing" / "lock")
