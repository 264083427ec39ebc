"""Fault 25: apply the same events to a cohort and to a model, and compare them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import imageio.v3 as iio
import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import engine
from engine.errors import CorruptStore, EngineError, MissingObject, StoreError
from engine.runs.worker import ledger_of
from engine.store.catalog.tables import read_images
from engine.store.delta.integrity import HEAD, parse_head
from engine.store.delta.torn import TORN
from engine.store.maintenance.problems import STALE
from engine.store.maintenance.verify import VerifyReport
from tests.support.cohort_model import (
    BROKEN,
    CONTENTS,
    DIGESTS,
    MARKS,
    ROOT,
    Asked,
    File,
    Known,
    Model,
    answer,
)
from tests.support.failing_store import ERRORS, failing
from tests.support.images import computed
from tests.support.inprocess_client import Killed, dying, here, meanwhile
from tests.support.power_cuts import tear, unsynced

MEMORY = Path("/dev/shm")
"""File system in memory, if available: nothing here needs to survive a power cut."""

PLACES = ("s1/a.png", "s1/b.png", "s2/a.png", "s2/c.png")
NAMES = st.sampled_from(PLACES)
SHOWN = st.integers(0, len(CONTENTS) - 1)
SCALES = st.sampled_from([1, 2])
LIMITS = st.sampled_from([None, None, 1, 2])
ACTIONS = st.sampled_from(["ingest", "run", "gc"])

MOST_POINTS = 40
"""Most renames, links, removals and commits at which a crash is tried; no ingest or run has
more."""


class Machine(RuleBasedStateMachine):
    """A cohort with at most four images, and its model."""

    deaths: ClassVar[Counter[str]] = Counter()
    failures: ClassVar[Counter[str]] = Counter()
    damages: ClassVar[Counter[str]] = Counter()
    cuts: ClassVar[Counter[str]] = Counter()
    examples: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).examples += 1
        base = MEMORY if os.access(MEMORY, os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="cohort-machine-", dir=base))
        self.sources = self.folder / ROOT
        self.sources.mkdir()
        (self.sources / "notes.txt").write_text("so that the root is never empty")
        self.place = self.folder / "cohort"
        self.log = self.folder / "calls"
        self.model = Model()
        self.writings = 0
        self.resources = ExitStack()
        self.client = self.resources.enter_context(here())

    @initialize(shown=st.lists(SHOWN, max_size=3))
    def create(self, shown: list[int]) -> None:
        """Create the cohort, and declare its sources."""
        for name, content in zip(PLACES, shown, strict=False):
            self.put(name, content)
        self.cohort = engine.create(self.place, layout="{subject}/{name}")
        self.cohort.ingest(self.sources, client=self.client)
        self.model.catalog = self.model.ingested()

    def teardown(self) -> None:
        """Finish all work; the cohort must be clean, with nothing left to do."""
        try:
            if hasattr(self, "cohort"):
                self._come_to_an_end()
        finally:
            self.resources.close()
            shutil.rmtree(self.folder)

    # files

    @rule(name=NAMES, shown=SHOWN)
    def put(self, name: str, shown: int) -> None:
        """Add or change a file."""
        self._write(name, iio.imwrite("<bytes>", CONTENTS[shown], extension=".png"), shown)

    @rule(name=NAMES, how=st.sampled_from([*BROKEN, "cut"]), shown=SHOWN)
    def break_file(self, name: str, how: str, shown: int) -> None:
        """Replace a file by an unreadable one."""
        whole = iio.imwrite("<bytes>", CONTENTS[shown], extension=".png")
        self._write(name, BROKEN.get(how, whole[:45]), None)

    def _write(self, name: str, data: bytes, shown: int | None) -> None:
        path = self.sources / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        self.writings += 1
        self.model.files[f"{ROOT}/{name}"] = File(shown, self.writings)

    @precondition(lambda self: self.model.files)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """Remove a file."""
        name = data.draw(st.sampled_from(sorted(self.model.files)))
        (self.folder / name).unlink()
        del self.model.files[name]

    @rule(shown=SHOWN)
    def sicken_or_heal(self, shown: int) -> None:
        """Make the operation fail on a content, or succeed again."""
        self.model.sick ^= {shown}

    # user actions

    @rule()
    def ingest(self) -> None:
        """Ingest the changes."""
        report = self.cohort.ingest(client=self.client)
        assert report.left == 0
        self.model.catalog = self.model.ingested()

    @rule(scale=SCALES, limit=LIMITS, retry=st.booleans())
    def run(self, scale: int, limit: int | None, retry: bool) -> None:
        """Compute the missing results, and nothing else (I2)."""
        rows, calls = self.model.computed(scale, limit, retry)
        operation = self._operation(scale)
        computed(self.log)
        report = self.cohort.run(operation, client=self.client, limit=limit, retry_failed=retry)
        assert [int(n) for n in computed(self.log)] == calls
        self.model.rows[scale] = rows
        assert report.selected == len(self.model.selected(limit))
        self._check_tables(report.tables, scale)

    @rule()
    def verify(self) -> None:
        """Check that verify reports no problem (I3), and that pixels match the files (I4)."""
        self._check_whole()

    def _check_whole(self) -> VerifyReport:
        report = self.cohort.verify()
        self._check_clean(report)
        for image in self.cohort.images():
            shown = self.model.catalog[image.attrs["image_id"]].content
            assert shown is not None
            assert np.array_equal(image.values[0], CONTENTS[shown])
        return report

    @rule()
    def gc(self) -> None:
        """Remove unreferenced files."""
        self.cohort.gc(older_than_s=0)
        assert self._leftovers() == set()

    # faults

    @rule(
        action=ACTIONS, point=st.integers(1, MOST_POINTS), after=st.booleans(), scale=SCALES,
        retry=st.booleans(), name=NAMES, shown=SHOWN,
    )  # fmt: skip
    def kill(
        self, action: str, point: int, after: bool, scale: int, retry: bool, name: str, shown: int
    ) -> None:
        """Crash at a point; each row must be as before or as intended, and all is clean."""
        self._die(action, point, after, scale, retry, name, shown)

    def _die(
        self, action: str, point: int, after: bool, scale: int, retry: bool, name: str, shown: int,
        then: Callable[[], object] = lambda: None,
    ) -> None:  # fmt: skip
        if action == "ingest":
            self.put(name, shown)  # so that the ingest has a change
        before, target = self.model.catalog, self.model.ingested()
        rows, _ = self.model.computed(scale, None, retry)
        with dying(str(self.place), point, after) as died:
            try:
                self._act(action, scale, retry)
            except Killed:
                assert died()
        type(self).deaths[f"{action}{'' if died() else ', to its end'}"] += 1
        then()
        if action == "ingest":
            self.model.catalog = _settled(self._catalog(), before, target)
        elif action == "run":
            self._settle_rows(scale, rows)
        self._check_clean(self.cohort.verify())

    @rule(
        action=ACTIONS, point=st.integers(1, MOST_POINTS), after=st.booleans(), scale=SCALES,
        number=st.sampled_from(sorted(ERRORS)), name=NAMES, shown=SHOWN,
    )  # fmt: skip
    def fail_a_call(
        self, action: str, point: int, after: bool, scale: int, number: int, name: str, shown: int
    ) -> None:
        """Make one call to the store fail: it is reported or harmless, and nothing is torn."""
        if action == "ingest":
            self.put(name, shown)
        before, target = self.model.catalog, self.model.ingested()
        rows, _ = self.model.computed(scale, None, False)
        told = None
        with failing(str(self.place), point, after, number) as failed:
            try:
                self._act(action, scale, retry=False)
            except EngineError as error:
                told = error
        assert told is None or (failed() and isinstance(told, StoreError)), told
        type(self).failures[f"{action}{', told' if told else ''}"] += failed()
        if action == "ingest":
            found = _settled(self._catalog(), before, target)
            self.model.catalog = found if told else target
        elif action == "run" and told:
            self._settle_rows(scale, rows)
        elif action == "run":
            self.model.rows[scale] = rows
        self._check_clean(self.cohort.verify())

    def _act(self, action: str, scale: int, retry: bool) -> None:
        if action == "ingest":
            self.cohort.ingest(client=self.client)
        elif action == "gc":
            self.cohort.gc(older_than_s=0)
        else:
            self.cohort.run(self._operation(scale), client=self.client, retry_failed=retry)

    @rule(
        action=ACTIONS, point=st.integers(1, MOST_POINTS), scale=SCALES, name=NAMES, shown=SHOWN,
        names=st.booleans(),
    )  # fmt: skip
    def cut_power(
        self, action: str, point: int, scale: int, name: str, shown: int, names: bool
    ) -> None:
        """Crash and lose unsynced data: nothing referenced, so nothing needs repair."""
        with unsynced(self.place) as cut:

            def lose() -> None:
                type(self).cuts["harmed" if cut(names) else "harmless"] += 1

            self._die(action, point, True, scale, False, name, shown, lose)
        assert self.cohort.repair() == ()

    @precondition(lambda self: self.model.catalog)
    @rule(
        data=st.data(), count=st.integers(1, 2), share=st.sampled_from([0.0, 0.0, 0.3, 0.9]),
        scale=SCALES,
    )  # fmt: skip
    def tear(self, data: st.DataObject, count: int, share: float, scale: int) -> None:
        """Tear the newest log entries, in a copy: they are reported, and the next commands work."""
        copy = self.folder / "copy"
        shutil.copytree(self.place, copy)
        try:
            there = sorted(p.parent.relative_to(copy) for p in copy.rglob("_delta_log"))
            if not self._sources_are_there():
                # With an entry of shards, the location of an image's pixels is lost; an image with
                # a missing or broken source can't be ingested again, and verify reports it.
                there.remove(Path("catalog/shards"))
            ledger = data.draw(st.sampled_from(there)).as_posix()
            torn = tear(copy, ledger, count, share)
            cohort = engine.open(copy)
            assert {p.path for p in cohort.verify().problems if TORN in p.text} == {*torn}
            cohort.ingest(client=self.client)
            operation = self._operation(scale)
            cohort.run(operation, client=self.client)
            self._check_clean(cohort.verify())
            self._check_repaired(cohort, operation, scale)
            type(self).cuts[f"{ledger}, torn" if torn else "nothing torn"] += 1
        finally:
            shutil.rmtree(copy)

    def _sources_are_there(self) -> bool:
        """Return whether each catalogued image could be ingested again."""
        readable = {n for n, file in self.model.files.items() if file.content is not None}
        return {
            n for n, k in self._catalog(self.cohort).items() if k.content is not None
        } <= readable

    def _check_repaired(self, cohort: engine.Cohort, operation: Asked, scale: int) -> None:
        """Check that all images with files are correct, with one correct row each."""
        files = {n: f.content for n, f in self.model.files.items() if f.content is not None}
        known = {n: k.content for n, k in self._catalog(cohort).items() if k.content is not None}
        assert {n: content for n, content in known.items() if n in files} == files
        for image in cohort.images():
            name = image.attrs["image_id"]
            assert np.array_equal(image.values[0], CONTENTS[known[name]])
        rows = _rows(cohort, operation)
        assert {*known.items()} <= {*rows}
        for (_, shown), (status, objects) in rows.items():
            assert objects == (_objects(shown, scale) if status == "done" else [])

    @rule(
        name=NAMES, shown=SHOWN, point=st.integers(1, MOST_POINTS), scale=SCALES, other=SCALES,
        what=st.sampled_from(["ingest, ingest", "run, run", "run, ingest"]),
    )  # fmt: skip
    def two_at_once(
        self, name: str, shown: int, point: int, scale: int, other: int, what: str
    ) -> None:
        """Run two drivers on the same cohort: both end, with the result of one."""
        self.put(name, shown)
        first, second = what.split(", ")
        if first == second == "run":
            self.ingest()
        rows, calls = self.model.computed(scale, None, False)
        computed(self.log)

        def act(action: str, scale: int) -> None:
            cohort = engine.open(self.place)
            if action == "ingest":
                cohort.ingest(client=self.client)
            else:
                cohort.run(self._operation(scale), client=self.client)

        with meanwhile(str(self.place), point, lambda: act(second, other)) as came:
            act(first, scale)
        if not came():
            act(second, other)
        if "run" in what:
            self.model.rows[scale] = rows
            found = [int(n) for n in computed(self.log)]
        if what == "run, run":
            rows, more = self.model.computed(other, None, False)
            self.model.rows[other] = rows
            assert set(found) == {*calls, *more}
            assert max(Counter(found).values(), default=0) <= 2
        if "ingest" in what:
            self.model.catalog = self.model.ingested()
        type(self).deaths[f"{what}{'' if came() else ', one after the other'}"] += 1
        self._check_clean(self.cohort.verify())

    @precondition(lambda self: self.model.catalog)
    @rule(
        data=st.data(), delete=st.booleans(), bit=st.integers(0, 2**20), scale=SCALES,
    )  # fmt: skip
    def damage(self, data: st.DataObject, delete: bool, bit: int, scale: int) -> None:
        """Flip a bit of a file, or delete it, in a copy: it is reported and never used."""
        copy = self.folder / "copy"
        shutil.copytree(self.place, copy)
        try:
            path = data.draw(st.sampled_from(self._kept_files(copy, delete)))
            _harm(copy / path, None if delete else bit)
            type(self).damages["deleted" if delete else "flipped"] += 1
            try:
                cohort = engine.open(copy)
            except engine.EngineError:
                assert path == "cohort.json"
                return
            _check_named(cohort.verify(), path)
            self._check_copy(cohort, scale)
        finally:
            shutil.rmtree(copy)

    def _kept_files(self, place: Path, delete: bool) -> list[str]:
        """Return the files that the engine wrote and needs, without leftovers and user files."""
        left = {*self._leftovers(), "cohort.toml"}
        used = {
            part.key for part in ledger_of(self.cohort.store, self._operation(1)).snapshot().parts
        }
        there = (p.relative_to(place).as_posix() for p in sorted(place.rglob("*")) if p.is_file())
        return [
            path
            for path in there
            if path not in left
            and not path.startswith((".staging/", "tables/.fragments/"))
            and not _only_begun(place / path)
            and not (delete and path.endswith("_head.json"))  # losing it loses nothing
            # Nor does losing a commit whose driver died before anything said that it exists.
            and not (delete and _is_unrecorded(place / path))
            # Nor does losing the inputs of a key whose run died before its first result.
            and not (delete and "/_keys/" in path and Path(path).stem not in used)
        ]

    def _check_copy(self, cohort: engine.Cohort, scale: int) -> None:
        """Check that all reads and results of a damaged cohort are correct, refused, or failed."""
        operation = self._operation(scale)
        try:
            self._check_tables_right(cohort)
            cohort.run(operation, client=self.client)
            rows = _rows(cohort, operation)
            images = {image_id: known.content for image_id, known in self._catalog(cohort).items()}
        except (CorruptStore, MissingObject):
            return
        assert images == {n: k.content for n, k in self.model.catalog.items()}
        for (_, shown), (status, objects) in rows.items():
            if status == "done":
                assert objects == _objects(shown, scale)

    def _check_tables_right(self, cohort: engine.Cohort) -> None:
        for name in cohort.tables():
            left, right = cohort.arrow_table(name), self.cohort.arrow_table(name)
            assert left.equals(right)

    # comparison with the model

    @invariant()
    def the_catalog_is_the_model(self) -> None:
        """I1 of ingest."""
        if hasattr(self, "cohort"):
            found = {n: (k.state, k.content) for n, k in self._catalog().items()}
            assert found == {n: (k.state, k.content) for n, k in self.model.catalog.items()}

    @invariant()
    def the_results_are_the_model(self) -> None:
        """I1 and I4 of runs."""
        for scale, rows in self.model.rows.items():
            found = _rows(self.cohort, self._operation(scale))
            assert {row: status for row, (status, _) in found.items()} == rows
            for (_, shown), (status, objects) in found.items():
                assert objects == (_objects(shown, scale) if status == "done" else [])

    def _operation(self, scale: int) -> Asked:
        sick = tuple(MARKS[shown] for shown in sorted(self.model.sick))
        return Asked(scale=scale, calls=str(self.log), sick=sick)

    def _catalog(self, cohort: engine.Cohort | None = None) -> dict[str, Known]:
        _, images = read_images((cohort or self.cohort).store)
        return {
            row["image_id"]: Known(
                row["state"],
                None if row["content"] is None else DIGESTS.index(row["content"]),
                0,
            )
            for row in images.to_pylist()
        }

    def _settle_rows(self, scale: int, target: dict[tuple[str, int], str]) -> None:
        before = self.model.rows.get(scale, {})
        found = {r: s for r, (s, _) in _rows(self.cohort, self._operation(scale)).items()}
        for row in before.keys() | target.keys() | found.keys():
            assert found.get(row) in (before.get(row), target.get(row)), row
        self.model.rows[scale] = found

    def _check_clean(self, report: VerifyReport) -> None:
        assert [p for p in report.problems if p.kind != STALE] == []

    def _check_tables(self, names: list[str], scale: int) -> None:
        objects, by_image, _ = (self.cohort.table(name) for name in names)
        rows = self.model.rows[scale]
        expected = {}
        for image_id, known in self.model.catalog.items():
            if known.state == "failed":
                expected[image_id] = "unreadable"
            elif known.content is not None:
                expected[image_id] = rows.get((image_id, known.content), "missing")
        assert dict(zip(by_image["image_id"], by_image["status"], strict=True)) == expected
        values = {
            image_id: _objects(shown, scale)
            for image_id, shown in self.model.selected(None)
            if expected[image_id] == "done"
        }
        found: dict[str, list[dict[str, float]]] = {image_id: [] for image_id in values}
        for row in objects.to_dict("records"):
            found[row["image_id"]].append({"y": row["y"], "value": row["value"]})
        assert found == values

    def _come_to_an_end(self) -> None:
        self.model.sick = set()
        self.ingest()
        self.run(1, None, True)
        self.run(1, None, True)  # computes nothing, as the model expects
        assert {self.model.rows[1][row] for row in self.model.selected(None)} <= {"done"}
        again = self.cohort.ingest(client=self.client)
        assert (again.new, again.changed, again.touched, again.failed) == (0, 0, 0, 0)
        self.gc()
        report = self._check_whole()
        assert report.leftovers == ()
        self.the_results_are_the_model()

    def _leftovers(self) -> set[str]:
        return {left.path for left in self.cohort.gc(older_than_s=0, dry_run=True)}


def _settled(
    found: dict[str, Known], before: dict[str, Known], target: dict[str, Known]
) -> dict[str, Known]:
    """Return the catalog after a crash: each image as before or as intended."""
    for name in before.keys() | target.keys() | found.keys():
        there = (n and (n.state, n.content) for n in (found.get(name),))
        allowed = [n and (n.state, n.content) for n in (before.get(name), target.get(name))]
        assert next(there) in allowed, name
    return found


def _objects(shown: int, scale: int) -> list[dict[str, float]]:
    columns = answer(CONTENTS[shown], scale)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _rows(
    cohort: engine.Cohort, operation: Asked
) -> dict[tuple[str, int], tuple[str, list[dict[str, float]]]]:
    """Return status and objects of each row, without duplicates."""
    ledger = ledger_of(cohort.store, operation)
    rows: list[dict[str, Any]] = ledger.read(ledger.snapshot().of_key(operation.key)).to_pylist()
    found = {(r["image_id"], DIGESTS.index(r["inputs"])): (r["status"], r["objects"]) for r in rows}
    assert len(found) == len(rows)
    return found


def _only_begun(path: Path) -> bool:
    """Return whether a file is the log of a ledger without a commit, which holds no data."""
    return path.parent.name == "_delta_log" and len(list(path.parent.glob("*.json"))) == 1


def _is_unrecorded(path: Path) -> bool:
    """Return whether a file is an entry of a log that is newer than the ledger's head record."""
    if path.parent.name != "_delta_log" or path.suffix != ".json":
        return False
    head = path.parents[1] / HEAD
    return not head.exists() or int(path.stem) > parse_head(head.read_bytes(), HEAD).version


def _harm(path: Path, bit: int | None) -> None:
    if bit is None:
        path.unlink()
        return
    data = bytearray(path.read_bytes())
    at = bit % (len(data) * 8)
    data[at // 8] ^= 1 << at % 8
    path.write_bytes(data)


def _check_named(report: VerifyReport, path: str) -> None:
    own = {path, path.split("/_delta_log/")[0] + "/_delta_log"}
    named = [p for p in report.problems if p.kind in ("corrupt", "missing") and p.path in own]
    assert named, (path, report.problems)
