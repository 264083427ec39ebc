"""Mixin of `Cohort` for training and evaluating networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import NothingFound, ParameterError
from engine.execution.progress import ProgressListener
from engine.store.backend.base import Store

if TYPE_CHECKING:
    from distributed import Client

    from engine.execution.cluster.cluster import Cluster
    from engine.learning.datasets.left_out import LeftOut
    from engine.learning.datasets.masked_images import MaskedImage
    from engine.learning.datasets.masks import Masks, MaskSource
    from engine.learning.evaluation.evaluation import (
        Evaluation,
    )
    from engine.learning.training.settings import TrainingSettings
    from engine.learning_drivers.evaluate import PredictionSource
    from engine.operations.base import Operation
    from engine.operations.segment.operation import Segment

    MasksAsked = MaskSource | str | Path
    """Masks, or a folder with the folders ``bone``, ``fat`` and ``other`` of mask files."""


class Learning:
    """Training and evaluation on images with annotated masks."""

    store: Store

    if TYPE_CHECKING:  # provided by the cohort

        def operation(self, name: str, **given: Any) -> Operation: ...  # noqa: D102

    def train(
        self,
        folder: str | Path,
        masks: MasksAsked,
        settings: TrainingSettings | Mapping[str, Any] | None = None,
        *,
        client: Client | Cluster | None = None,
        where: str | None = None,
        limit: int | None = None,
        with_orphaned: bool = False,
        start: str | Path | None = None,
        device: str | None = None,
        made_by: str | None = None,
        events: ProgressListener | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Train a network on the images with masks, on a worker that offers a GPU slot.

        A training that was killed or stopped resumes from its checkpoint, and ends with the same
        weights (on a CPU to the bit, with as many threads). At its end the folder holds four
        models: ``best-loss``, ``best-density``, ``best-dsc`` and ``last``; `engine.segment` accepts
        any of them.

        Parameters
        ----------
        folder
            Folder of the training, as seen by this process and the worker.
        masks
            Source of masks: a folder with the folders ``bone``, ``fat`` and ``other``, or another
            `engine.learning.datasets.masks.MaskSource`.
        settings
            Training settings; see `engine.learning.training.settings.TrainingSettings`.
        client
            Client of the cluster to use; by default one local worker with all cores.
        where, limit
            Selection: a condition on the catalog's columns, and a maximum number of images.
        with_orphaned
            Include images whose source is gone.
        start
            A model to fine-tune, by its folder or the name of a bundled one: then few images of
            your own are enough. Its architecture is kept.
        device
            "cpu" or "cuda"; by default CUDA if the worker has it.
        made_by
            The command, for the models' cards.
        events
            Listener for progress; by default a notebook shows it, and a script is silent.

        Returns
        -------
        The fields of `engine.learning.training.report.TrainingReport`, and ``left_out``: selected
        images that are not used for training, with reasons.

        Raises
        ------
        NothingFound, NoMask
            If no image has a mask, or all are of one subject.
        OtherTraining, TrainingBusy
            If the folder holds another training, or another process trains in it.
        """
        from engine.execution.notebook_progress import default_progress
        from engine.execution.repairs import note_repairs
        from engine.learning.datasets.masked_images import classes_of_masks
        from engine.learning.models.bundle import open_bundle
        from engine.learning.models.pretrained import pretrained_models
        from engine.learning.training.finetune import finetune_settings
        from engine.learning.training.settings import TrainingSettings
        from engine.learning.training.splits import split_subjects
        from engine.learning_drivers.train import TrainingTask, train_on_worker, training_cluster

        asked = settings if isinstance(settings, TrainingSettings) else None
        chosen = asked or TrainingSettings(**dict(settings or {}))
        if device not in (None, "cpu", "cuda"):
            raise ParameterError("device", device, "cpu or cuda")
        shown = note_repairs(self.store, events or default_progress())
        opened, images, left = self._masked(masks, where, limit, with_orphaned)
        classes = classes_of_masks(opened)
        if start is not None:
            chosen = finetune_settings(chosen, open_bundle(start), classes)
        # fail before a cluster is started
        split_subjects([i.subject for i in images], chosen.holdout, chosen.seed)
        task = TrainingTask(
            self.store,
            tuple(images),
            opened,
            str(Path(folder).absolute()),
            chosen,
            classes,
            None
            if start is None
            else str(start if start in pretrained_models() else Path(start).absolute()),
            made_by,
            device,
        )
        with training_cluster(client, shown) as working:
            report = train_on_worker(working, task, events=shown, stop=stop)
        return {**report, "left_out": [one.as_json() for one in left]}

    def evaluate(
        self,
        folder: str | Path,
        masks: MasksAsked,
        answer: Segment | MaskSource | str | None = None,
        *,
        client: Client | Cluster | None = None,
        where: str | None = None,
        limit: int | None = None,
        with_orphaned: bool = False,
        events: ProgressListener | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Evaluation:
        """Compare predictions or stored labels with masks, and write ``index.html``.

        Parameters
        ----------
        folder
            New, or that of an earlier evaluation, which is replaced; as seen by this process and
            workers.
        masks
            Ground truth; see `train`.
        answer
            An `engine.segment`, or the name or folder of a model, or a
            `engine.learning.datasets.masks.MaskSource` of existing labels, such as ``LabelImages``
            of a key; by default `engine.segment` as cohort.toml declares it.
        client
            Client of the cluster to use; a local cluster by default.
        where, limit
            Selection: a condition on the catalog's columns, and a maximum number of images.
        with_orphaned
            Include images whose source is gone.
        events
            Listener for progress; by default a notebook shows it, and a script is silent.

        Returns
        -------
        `engine.learning.evaluation.evaluation.Evaluation`; its ``summary()`` has the figures.

        Raises
        ------
        NothingFound, NoMask
            If no image has a mask.
        ParameterError
            If masks and predictions have different classes, or the folder holds other files.
        """
        from engine.execution.cluster.cluster import use_client
        from engine.execution.notebook_progress import default_progress
        from engine.execution.repairs import note_repairs
        from engine.learning.evaluation.evaluation import (
            claim_place,
            evaluation_of,
            require_place,
            write_evaluation,
        )
        from engine.learning.evaluation.page import PLOTS, write_page
        from engine.learning.evaluation.plots import draw_plots
        from engine.learning_drivers.evaluate import ERRORS, score_on_workers
        from engine.operations.segment.operation import Segment
        from engine.store.backend.atomic_write import atomic_write

        place, shown = Path(folder).absolute(), events or default_progress()
        require_place(place)
        note_repairs(self.store, shown)
        opened, images, left_out = self._masked(masks, where, limit, with_orphaned)
        wanted = self.operation("segment") if answer is None else answer
        if isinstance(wanted, str):
            wanted = Segment(model=wanted)
        of, classes, asked, resources = self._answer(wanted, opened, images)
        claim_place(place)
        with use_client(client, shown) as working:
            scored = score_on_workers(
                working, self.store, images, opened, asked, classes, place,
                resources=resources, events=shown, stop=stop,
            )  # fmt: skip
        learnt = self._familiarity(wanted, images)
        scored = [replace(one, learnt_from=learnt.get(one.image_id)) for one in scored]
        made = replace(evaluation_of(of, classes, scored), left_out=left_out)
        named = {Path(one.picture).name for one in scored}
        for left in (place / ERRORS).glob("*.png"):
            if left.name not in named:
                left.unlink(missing_ok=True)
        atomic_write(place / PLOTS, draw_plots(made))
        write_page(place, made, write_evaluation(place, made))
        return made

    def _answer(
        self, answer: Any, masks: Masks, images: list[MaskedImage]
    ) -> tuple[str, tuple[str, ...], PredictionSource, dict[str, float]]:
        """Return what it is called, the classes, what answers, and what that asks of a worker."""
        from engine.learning.datasets.masked_images import classes_of_masks
        from engine.learning.datasets.masks import NoMask
        from engine.learning_drivers.evaluate import ModelPrediction, StoredPrediction
        from engine.operations.segment.operation import Segment
        from engine.store.catalog.tables import read_images

        true = tuple(c.name for c in classes_of_masks(masks))
        if isinstance(answer, Segment):
            of, classes = _known(answer.model)
            if classes[: len(true)] != true:
                raise ParameterError("masks", ", ".join(true), f"of {', '.join(classes)}")
            return of, classes, ModelPrediction(answer), dict(answer.resources)
        stored = answer.open(self.store, read_images(self.store)[1])
        lacking = {image.image_id for image in images} - set(stored.image_ids)
        if lacking:
            raise NoMask(min(lacking), f"it and {len(lacking) - 1} others have no answer stored")
        return str(getattr(answer, "name", "stored labels")), true, StoredPrediction(stored), {}

    def _familiarity(self, answer: Any, images: list[MaskedImage]) -> dict[str, str]:
        """Return by image_id what of it a model learnt from; nothing where that is not known."""
        from engine.learning.evaluation.overlap import training_overlap
        from engine.learning.models.bundle import open_bundle
        from engine.operations.segment.operation import BASELINE, Segment
        from engine.store.catalog.tables import read_images

        if not isinstance(answer, Segment) or answer.model == BASELINE:
            return {}
        contents = open_bundle(answer.model).trained_on()
        return (
            {}
            if contents is None
            else training_overlap(images, read_images(self.store)[1], contents)
        )

    def _masked(
        self, masks: MasksAsked, where: str | None, limit: int | None, with_orphaned: bool
    ) -> tuple[Masks, list[MaskedImage], tuple[LeftOut, ...]]:
        """Return the masks, the images that have one, and which of the meant ones have not."""
        from engine.learning.datasets.left_out import find_left_out
        from engine.learning.datasets.mask_files import MaskFolders
        from engine.learning.datasets.masked_images import images_with_masks
        from engine.runs.selection import condition_of, select_images, with_sources
        from engine.store.catalog.tables import read_images

        source = MaskFolders(masks) if isinstance(masks, (str, Path)) else masks
        images = read_images(self.store)[1]
        if not with_orphaned:
            images = with_sources(images)
        opened = source.open(self.store, images)
        chosen = select_images(images, condition_of(self.store, where), limit)
        found = images_with_masks(chosen, opened)
        if not found:
            raise NothingFound(
                "None of the images that are meant has a mask", "Look at --where and --masks."
            )
        taken = frozenset(image.image_id for image in found)
        return opened, found, find_left_out(chosen, taken, opened)


def _known(model: str) -> tuple[str, tuple[str, ...]]:
    """Return what a model is called, and its classes."""
    from engine.learning.models.bundle import open_bundle
    from engine.learning.models.card import tissue_classes
    from engine.learning.models.pretrained import pretrained_models
    from engine.operations.segment.operation import BASELINE

    if model == BASELINE:
        return BASELINE, tuple(c.name for c in tissue_classes())
    # All models of a training have the same name, so include their folders.
    of = model if model in pretrained_models() else "/".join(Path(model).absolute().parts[-2:])
    return of, tuple(c.name for c in open_bundle(model).card.classes)
