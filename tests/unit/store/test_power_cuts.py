"""What a power cut tears of a log is told from other damage, and costs what it held only."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from engine.errors import CorruptStore
from engine.store.backend.open import open_store
from engine.store.delta.entries import last_line
from engine.store.delta.integrity import PREVIOUS_DIGEST, HeadRecord, log_path
from engine.store.delta.ledger import Ledger, Snapshot
from engine.store.delta.torn import TORN, examine, is_torn_checkpoint, is_torn_entry, is_torn_note
from engine.store.digests import digest_bytes
from engine.store.maintenance.repair import repair_ledgers
from engine.store.maintenance.verify_log import check_log

SEED = 20261129

SCHEMA = pa.schema([("image_id", pa.string()), ("key", pa.string())])

PATH = "results/x/v1"


def ledger_at(place: Path) -> Ledger:
    return Ledger(open_store(place), PATH, SCHEMA, "key")


def commit(ledger: Ledger, *names: str) -> Snapshot:
    snapshot = ledger.snapshot()
    for name in names:
        part = ledger.write_part(pa.table({"image_id": [name]}), "ab")
        snapshot = ledger.commit(snapshot, [part])
    return snapshot


def names_of(ledger: Ledger) -> list[str]:
    return sorted(ledger.read(ledger.snapshot().parts)["image_id"].to_pylist())


def entry(place: Path, version: int) -> Path:
    return place / log_path(PATH, version)


HOW: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "zeros at its end": lambda data: data[:100] + bytes(len(data) - 100),
    "zeros within": lambda data: data[:64] + bytes(64) + data[128:],
    "half": lambda data: data[: len(data) // 2],
    "but a byte": lambda data: data[:-1],
    "without its last line": lambda data: data[: data.rindex(b"\n")],
    "its first line and its end": lambda data: data[: data.index(b"\n") + 1],
}
"""How a power cut leaves a file that was named before it was durable."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("written")
    commit(ledger_at(place), *"abcdeö")
    return place


@pytest.fixture
def place(written: Path, tmp_path: Path) -> Path:
    shutil.copytree(written, tmp_path / "cohort")
    return tmp_path / "cohort"


def test_an_entry_is_torn_wherever_it_was_cut(written: Path) -> None:
    data = entry(written, 6).read_bytes()
    assert not is_torn_entry(data, 6)
    assert [n for n in range(len(data)) if not is_torn_entry(data[:n], 6)] == []


def test_no_flipped_bit_looks_like_a_power_cut(written: Path) -> None:
    for version in (0, 6):
        data = entry(written, version).read_bytes()
        for bit in range(len(data) * 8):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            assert not is_torn_entry(bytes(flipped), version), (version, bit)
    last = b'{"version":99,"size":102,"sizeInBytes":32856,"numOfAddFiles":99}\n'
    for note in ((written / PATH / "_head.json").read_bytes(), last):
        assert not is_torn_note(note)
        for bit in range(len(note) * 8):
            flipped = bytearray(note)
            flipped[bit // 8] ^= 1 << bit % 8
            assert not is_torn_note(bytes(flipped)), bit
    assert not is_torn_checkpoint(b"PAR1" + bytes(99) + b"PAR\x11")


def test_entries_of_other_programs_are_not_torn() -> None:
    add = b'{"commitInfo":{"engineInfo":"Spark"}}\n{"add":{"path":"a.parquet"}}\n'
    assert not is_torn_entry(add, 3)
    assert not is_torn_entry(b'{"add":{"path":"a.parquet"}}', 3)
    ours = b'{"commitInfo":{"%s":"1"}}\n' % PREVIOUS_DIGEST.encode()
    assert is_torn_entry(ours, 3)
    assert not is_torn_entry(ours + last_line(3), 3)
    assert not is_torn_entry(ours + random.Random(SEED).randbytes(400), 3)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("count", [1, 3])
def test_a_torn_tail_costs_what_it_held(how: str, count: int, place: Path) -> None:
    ledger = ledger_at(place)
    for version in range(7 - count, 7):
        path = entry(place, version)
        path.write_bytes(HOW[how](path.read_bytes()))
    with pytest.raises(CorruptStore, match=f"{TORN}.*cohort verify --repair"):
        ledger.snapshot()
    found = [(p.path, p.kind) for p in check_log(ledger, None) if TORN in p.text]
    assert found == [(log_path(PATH, version), "corrupt") for version in range(7 - count, 7)]
    assert all(TORN in p.text for p in check_log(ledger, None))
    (done,) = repair_ledgers(ledger.store)
    assert done.ledger == PATH
    assert done.commits == count
    assert done.since is not None
    assert TORN in str(done)
    assert names_of(ledger) == [*"abcdeö"][: 6 - count]
    assert list(check_log(ledger, ledger.snapshot())) == []
    assert repair_ledgers(ledger.store) == []
    commit(ledger, "g", "h")
    assert names_of(ledger) == sorted([*"abcdeö"[: 6 - count], "g", "h"])
    assert list(check_log(ledger, ledger.snapshot())) == []


def test_a_note_further_ahead_than_the_torn_entries_is_cut_back(place: Path) -> None:
    """As the engine left it that did not wait for its entries: names of the last ones are gone."""
    ledger = ledger_at(place)
    entry(place, 4).write_bytes(b"")
    for version in (5, 6):
        entry(place, version).unlink()
    problems = list(check_log(ledger, None))
    assert [p.path for p in problems] == [log_path(PATH, v) for v in (4, 5, 6)]
    (done,) = repair_ledgers(ledger.store)
    assert done.commits == 3
    assert names_of(ledger) == ["a", "b", "c"]


def test_a_torn_entry_without_any_note_is_taken_out(place: Path) -> None:
    (place / PATH / "_head.json").unlink()
    entry(place, 6).write_bytes(b"")
    repair_ledgers(open_store(place))
    assert names_of(ledger_at(place)) == [*"abcde"]


def test_nothing_that_can_be_read_is_dropped(place: Path) -> None:
    """Torn entries before a whole one, and ones that are gone, are for people to decide on."""
    ledger = ledger_at(place)
    whole = {version: entry(place, version).read_bytes() for version in (5, 6)}
    entry(place, 5).write_bytes(b"")
    assert examine(ledger.store, PATH) is None
    assert repair_ledgers(ledger.store, also_gone=True) == []
    assert entry(place, 6).read_bytes() == whole[6]
    with pytest.raises(CorruptStore):
        ledger.snapshot()
    assert any(p.path == log_path(PATH, 5) for p in check_log(ledger, None))
    entry(place, 5).write_bytes(whole[5])
    entry(place, 6).unlink()
    assert repair_ledgers(ledger.store) == []
    with pytest.raises(CorruptStore, match="newest entries are gone; cohort verify --repair"):
        ledger.snapshot()
    (done,) = repair_ledgers(ledger.store, also_gone=True)
    assert done.commits == 1
    assert names_of(ledger) == [*"abcde"]


def test_a_flipped_bit_in_the_newest_entry_is_never_repaired(place: Path) -> None:
    ledger = ledger_at(place)
    path = entry(place, 6)
    whole = path.read_bytes()
    random_ = random.Random(SEED)
    for bit in random_.sample(range(len(whole) * 8), 60):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert repair_ledgers(ledger.store, also_gone=True) == []
        assert path.read_bytes() == bytes(data)
        assert any(TORN not in p.text for p in check_log(ledger, None)), bit


@pytest.mark.parametrize("left", [b"", bytes(124), b'{"version": 6, "dig'])
def test_a_torn_note_loses_nothing(left: bytes, place: Path) -> None:
    ledger = ledger_at(place)
    (place / PATH / "_head.json").write_bytes(left)
    assert [(p.path, TORN in p.text) for p in check_log(ledger, None)] == [
        (f"{PATH}/_head.json", True)
    ]
    (done,) = repair_ledgers(ledger.store)
    assert done.commits == 0
    assert "nothing was lost" in str(done)
    assert names_of(ledger) == [*"abcdeö"]
    commit(ledger, "g")
    assert list(check_log(ledger, ledger.snapshot())) == []


def test_a_ledger_whose_every_entry_is_torn_begins_again(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    commit(ledger, "a")
    for version in (0, 1):
        entry(tmp_path, version).write_bytes(b"")
    (done,) = repair_ledgers(ledger.store)
    assert done.since is None
    assert ledger.snapshot().version == -1
    commit(ledger, "b")
    assert names_of(ledger) == ["b"]
    assert list(check_log(ledger, ledger.snapshot())) == []


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of 201 commits, two checkpoints among them."""
    place = tmp_path_factory.mktemp("long")
    ledger = ledger_at(place)
    snapshot = ledger.snapshot()
    for n in range(201):
        part = ledger.write_part(pa.table({"image_id": [f"{n:03}"]}), "ab")
        snapshot = ledger.commit(snapshot, [part])
    assert sorted(p.name[17:20] for p in (place / PATH).glob("_delta_log/*.checkpoint*")) == [
        "099",
        "199",
    ]
    return place


@pytest.mark.parametrize("left", [b"", bytes(4096), None])
@pytest.mark.parametrize(
    "torn", [("_last",), ("199.c",), ("099.c",), ("_last", "199.c", "201"), ("199", "20", "_last")]
)
def test_torn_checkpoints_are_made_again(
    torn: tuple[str, ...], left: bytes | None, long: Path, tmp_path: Path
) -> None:
    place = tmp_path / "cohort"
    shutil.copytree(long, place, copy_function=os.link)
    ledger = ledger_at(place)
    hit = []
    for path in sorted((place / PATH / "_delta_log").iterdir()):
        name = path.name[17:] if path.name[0] == "0" else path.name
        if name.startswith(torn):
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data[: len(data) // 2] if left is None else left)
            hit.append(path.relative_to(place).as_posix())
    found = {p.path: p for p in check_log(ledger, None)}
    assert {*hit} <= {*found}
    assert [found[path] for path in hit if TORN not in found[path].text] == []
    repair_ledgers(ledger.store, also_gone=True)
    lost = sum(path.endswith(".json") for path in hit)
    snapshot = ledger.snapshot()
    assert len(snapshot.parts) == 201 - lost
    assert list(check_log(ledger, snapshot)) == []
    commit(ledger, "new")
    assert list(check_log(ledger, ledger.snapshot())) == []
    assert len(ledger.snapshot().parts) == 202 - lost


def test_who_repairs_second_leaves_what_was_committed_since(place: Path) -> None:
    """Another writer repairs, and commits, between this one's look and its step."""
    ledger = ledger_at(place)
    entry(place, 6).write_bytes(b"")
    other = False

    class Slow(type(ledger.store)):  # type: ignore[misc]
        """A store at which another one comes first."""

        def update(self, path: str, change: Callable[[bytes | None], bytes | None]) -> bool:
            nonlocal other
            if not other and path.endswith("_head.json"):
                other = True
                repair_ledgers(ledger.store)
                commit(ledger, "g")
            return bool(super().update(path, change))

    repair_ledgers(Slow(str(place)))
    assert other
    assert names_of(ledger) == [*"abcdeg"]
    assert list(check_log(ledger, ledger.snapshot())) == []


def test_each_entry_is_durable_before_the_note_names_it(place: Path) -> None:
    head = (place / PATH / "_head.json").read_bytes()
    assert head == HeadRecord(6, digest_bytes(entry(place, 6).read_bytes())).as_bytes()
