"""Maintenance of a cohort: status, verification, repair, garbage collection."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from engine.errors import NothingFound
from engine.operations.registry import operations
from engine.privacy import OtherPseudonymKey, Pseudonyms, read_key
from engine.runs.selection import check_declare_allowed, condition_of, select_images
from engine.status.status import Status, read_status
from engine.store.backend.base import Store
from engine.store.catalog.annotations import Contour, read_annotations, read_contours
from engine.store.catalog.tables import images_ledger, read_images
from engine.store.config import declare_key_check, read_config
from engine.store.maintenance.gc import OLDER_THAN_S, UnreferencedFile, collect, plan_gc
from engine.store.maintenance.repair import Repaired, repair_ledgers

if TYPE_CHECKING:
    from engine.store.maintenance.verify import VerifyReport


class Upkeep:
    """Mixin of `Cohort` with the methods that need no cluster."""

    store: Store

    def pseudonyms(self) -> Pseudonyms:
        """Return the pseudonyms of this cohort, made with the key that the environment names.

        Raises
        ------
        NoPseudonymKey, OtherPseudonymKey
        """
        url = self.store.url
        names = read_key(outside=None if "://" in url else url)
        if declare_key_check(self.store, names.check) != names.check:
            raise OtherPseudonymKey(url)
        return names

    def require_images(
        self, *, where: str | None = None, limit: int | None = None, declare: bool = False
    ) -> None:
        """Reject a selection that `run` could not use, before a cluster is started.

        Raises
        ------
        NothingFound
            If no image was ever ingested, or the condition is invalid or matches no image.
        UsageError
            If ``declare`` is combined with a selection.
        """
        check_declare_allowed(where, limit, declare)
        if not images_ledger(self.store).snapshot().parts:
            raise NothingFound(
                f"{self.store.url} holds no images yet",
                f"Take some first: cohort ingest {quote(self.store.url)} SOURCE",
            )
        if where is not None or limit is not None:
            images = read_images(self.store)[1]
            condition = condition_of(self.store, where)
            chosen = select_images(images, condition, limit, ("image_id",))
            if condition is not None and not chosen.num_rows:
                raise NothingFound(
                    f"--where {where!r} fits no image that has pixels",
                    condition.told_values(images),
                )

    def reveal(self, source: str | Path) -> tuple[dict[str, Any], ...]:
        """Return the catalog's rows of a file, or of all files in a folder.

        Pseudonyms are irreversible: the names of the files are hashed again.

        Parameters
        ----------
        source
            A file or folder inside a root, or a folder of annotations, of cohort.toml.

        Returns
        -------
        For each image: the file's ``path`` as given, ``source``, ``image_id``, ``state``,
        ``reason``, ``subject`` and ``series``; a file that is not in the catalog has one row, of
        state "unknown".

        Raises
        ------
        NoSource, NothingFound, NoPseudonymKey, OtherPseudonymKey
        """
        from engine.ingest.annotations.reveal import reveal_drawings
        from engine.ingest.reveal import find_catalog_rows

        config = read_config(self.store)
        hidden = any(root.confidential for root in config.roots.values()) and config.annotations
        names = self.pseudonyms() if hidden else None
        drawn = tuple(reveal_drawings(self.store, config, source, names))
        try:
            return (*find_catalog_rows(self.store, config, source, self.pseudonyms), *drawn)
        except NothingFound:  # not in a root, but it may be an annotation file
            if not drawn:
                raise
            return drawn

    def annotations_of(self, image_id: str) -> tuple[Contour, ...]:
        """Return the ingested annotations on an image; points are y, x in pixels.

        Raises
        ------
        CorruptStore, MissingObject
        """
        refs = read_annotations(self.store).of([image_id])
        return read_contours(self.store, refs).get(image_id, ())

    def status(self) -> Status:
        """Report existing, missing and failed results, each by name."""
        return read_status(self.store)

    def verify(self) -> VerifyReport:
        """Check every file, ledger and table, and name all that is wrong; see `verify_cohort`."""
        from engine.store.maintenance.verify import verify_cohort

        known = {(kind.name, kind.version): kind.object_schema for kind in operations().values()}
        return verify_cohort(self.store, operations=known)

    def repair(self, *, also_gone: bool = True) -> tuple[Repaired, ...]:
        """Repair ledgers torn by a power cut, and report the losses.

        `ingest`, `run`, `qc`, `train` and `evaluate` do this automatically.

        Parameters
        ----------
        also_gone
            Whether to check every file of the logs, and to continue also if their newest entries
            are missing entirely, although a power cut may not be the cause. Damaged checkpoints
            and head records are then made again from the logs, too.

        Raises
        ------
        StoreFull, StoreReadOnly
        """
        return tuple(repair_ledgers(self.store, also_gone=also_gone))

    def gc(
        self, *, older_than_s: float = OLDER_THAN_S, dry_run: bool = False
    ) -> tuple[UnreferencedFile, ...]:
        """Delete unreferenced files above a minimum age, and return them.

        Parameters
        ----------
        older_than_s
            Minimum age, seconds: uncommitted files of a running ingest or run are younger.
        dry_run
            Only return the files that would be deleted.
        """
        found = plan_gc(self.store, older_than_s)
        return found if dry_run else collect(self.store, found)
