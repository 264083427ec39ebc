"""What an operation is: a value that says what is asked of an image, and answers it."""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from engine.errors import UsageError
from engine.operations.column_order import in_reading_order
from engine.operations.image import Image as Image
from engine.operations.image import ImageFailed as ImageFailed
from engine.operations.labels import Labelled
from engine.operations.outlines import Outline, outline_objects
from engine.operations.parameter_errors import told_in_words
from engine.store.digests import digest_of

INPUTS = ("content", "spacing", "rescale", "annotation", "fields")
"""What an operation can declare that it reads of an image; "fields" is what the catalog calls it:
its source and `Image.fields`. Without that, images that are equal otherwise share one answer."""

LABELS = "labels"
"""What an operation with `Operation.label_classes` answers beside its columns."""

Found = Mapping[str, "Sequence[Any] | NDArray[Any]"]
"""What was found in an image: a column for each field of ``objects``, and perhaps `LABELS`."""


class Operation(Labelled, BaseModel):
    """A named, versioned question with its parameters; small, frozen, picklable.

    Subclasses set the class variables, declare parameters as fields, and write `measure`. Values
    of parameters are checked on construction and again nowhere else.

    Attributes
    ----------
    name, version
        Identity; a change of what the answer means is a new version.
    objects
        Columns of one object found.
    inputs
        What of an image the answer depends on, out of `INPUTS`.
    resources
        What a worker must offer, e.g. ``{"GPU": 1}``.
    singular, quantities
        What one object is called in tables (its number's column, unless ``objects`` has one of
        that name), and which columns of ``objects`` are averaged by image and by experiment.
    pixel_sizes
        Those of ``quantities`` that are sizes in pixels. Where ``objects`` has ``spacing_um`` too,
        an experiment whose objects have several spacings has no mean of these.
    watched
        Further columns of ``objects`` whose distribution and extremes quality control shows.
    captions
        What columns are called there, with their unit: ``{"radius_px": "radius, px"}``.
    unlisted
        Columns of ``objects`` that are kept for pictures, and left out of tables.
    summaries
        Names of further tables, made of all objects at once: of series, or of the whole cohort.
    summaries_version
        Which rule makes them; another one makes them again, of the results that there are.
    details
        Names of further tables with rows of their own for what an object is made of.
    neutral
        Parameters that can't change the answer (a batch size), left out of the key.
    alternatives
        Groups of parameters of which one is given: one that is given replaces what cohort.toml
        declares of the others.
    by_image
        Columns of `measure_images`, which the table by image has, and the one by experiment as
        mean and standard deviation over images.
    """

    # Infinite values and "not a number" are all the same in a key, so they are no parameters.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]
    version: ClassVar[int] = 1
    objects: ClassVar[pa.Schema]
    inputs: ClassVar[tuple[str, ...]] = ("content",)
    resources: ClassVar[Mapping[str, float]] = {}
    singular: ClassVar[str] = "object"
    quantities: ClassVar[tuple[str, ...]] = ()
    pixel_sizes: ClassVar[tuple[str, ...]] = ()
    watched: ClassVar[tuple[str, ...]] = ()
    captions: ClassVar[Mapping[str, str]] = {}
    unlisted: ClassVar[frozenset[str]] = frozenset()
    summaries: ClassVar[tuple[str, ...]] = ()
    summaries_version: ClassVar[int] = 1
    details: ClassVar[tuple[str, ...]] = ()
    neutral: ClassVar[frozenset[str]] = frozenset()
    alternatives: ClassVar[tuple[frozenset[str], ...]] = ()
    by_image: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **parameters: Any) -> None:
        try:
            super().__init__(**parameters)
        except ValidationError as error:
            raise told_in_words(error, self.name, type(self).model_fields, parameters) from None

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters as plain JSON values."""
        return json.loads(self.model_dump_json())

    @property
    def weights(self) -> str | None:
        """SHA-256 of the weights, for operations that have some."""
        return None

    @property
    def identity(self) -> dict[str, Any]:
        """All that the key is made of."""
        parameters = {k: v for k, v in self.parameters.items() if k not in self.neutral}
        return {
            "operation": self.name,
            "version": self.version,
            "parameters": parameters,
            "weights": self.weights,
        }

    @property
    def key(self) -> str:
        """Digest of name, declared version, parameters and weights."""
        return digest_of(self.identity)

    @property
    def halo_px(self) -> int:
        """Context that a block of a giant image needs on each side, pixels."""
        return 0

    def halo_of(self, spacing_um: tuple[float, float] | None) -> int:
        """Return ``halo_px`` for an image of a spacing (y, x), where it depends on that."""
        return self.halo_px

    @abstractmethod
    def measure(self, image: Image) -> Mapping[str, Sequence[Any] | NDArray[Any]]:
        """Answer for one image: a column for each field of ``objects``, all of one length.

        Objects are in coordinates of the whole image; of a block, only those that belong to its
        ``write`` region. No objects is an empty answer and valid.

        Raises
        ------
        ImageFailed
            With a reason code, if the image can't be answered for. Any other exception fails the
            image too, under the exception's name.
        """

    def measure_each(self, images: Iterable[Image]) -> Iterator[tuple[Found | Exception, float]]:
        """Answer for the images of a unit, in order: what `measure` gives or raises, and seconds.

        By default one after the other. An operation that gains by answering for several at once
        (a network) does that here; an image's own failure must not touch its siblings.
        """
        for image in images:
            began = time.perf_counter()
            answer: Found | Exception
            try:
                answer = self.measure(image)
            except Exception as error:
                answer = error
            yield answer, time.perf_counter() - began

    def prepare(self) -> None:
        """Load what all images need (a model, a function), once on each worker.

        An error here is the environment's: it ends the run and fails no image.
        """

    def first_use(self) -> str | None:
        """Say in a sentence what takes long before the first image, once on a machine, if it will.

        Asked where a run's workers are on the machine of who asked for it.
        """
        return None

    def __call__(self, array: NDArray[Any]) -> pd.DataFrame:
        """Answer for one array (y, x), (c, y, x) or (y, x, 3): how people tune parameters.

        Of an image of `engine.Cohort.images` it is the answer that a run gives.

        Returns
        -------
        One row per object: its number, from 1, and the columns of ``objects``.

        Raises
        ------
        UsageError
            If the operation reads what is drawn on an image, which no array carries.
        """
        if "annotation" in self.inputs:
            raise UsageError(
                f"{self.name} reads what is drawn on an image, which an array does not carry. Run "
                "it on some images: cohort.run(operation, where=\"subject == '...'\")."
            )
        image = Image.of(array)
        return self.frame(
            self.measure(image if "fields" in self.inputs else replace(image, fields={}))
        )

    def own_threads(self, count: int) -> None:
        """Take note of how many threads of a worker this operation's tasks have to themselves."""

    def runs_on(self) -> str:
        """Return the device that this process answers on, for the record: "cpu" or "cuda"."""
        return "cpu"

    def annotation(self, source: str) -> str | None:
        """Return the digest of what the operation itself knows of a source, as a further input.

        Asked when a run is planned, of operations with "annotation" in ``inputs``. What people drew
        and ingest has read needs none of it: its digest is in the catalog's column ``annotation``.
        """
        return None

    def merge_objects(self, image: NDArray[np.int64], found: pa.Table) -> pa.Table:
        """Join what belongs together of the blocks of giant images, before tables are made.

        By default nothing does: an object belongs to the block that holds its centre.

        Parameters
        ----------
        image
            Number of each object's image, ascending.
        found
            The objects: the columns of ``objects``.

        Returns
        -------
        Objects with one more column, ``_image``: their image's number, ascending.
        """
        return found.append_column("_image", pa.array(image))

    def measure_images(
        self, image: NDArray[np.int64], found: pa.Table, total: int
    ) -> Mapping[str, NDArray[np.float64]]:
        """Say what all objects of an image together amount to: the columns ``by_image``.

        Parameters
        ----------
        image
            Number of each object's image, ascending.
        found
            The objects of all images, merged.
        total
            How many images there are.

        Returns
        -------
        A value for each image, (total,); NaN where there is none.
        """
        return {}

    def outlines(self, found: Mapping[str, NDArray[Any]]) -> list[Outline]:
        """Return what quality control draws over an image for the objects found in it.

        By default circles where objects have y, x and radius_px, small marks where they have only
        y and x, and nothing else. Must not depend on anything but the objects.

        Parameters
        ----------
        found
            The columns of ``objects`` for one whole image, each of one length.
        """
        return outline_objects(found)

    def detail_slice(self, objects: pa.Table, described: Sequence[str]) -> Mapping[str, pa.Table]:
        """Return a slice of each of the ``details``, on a worker.

        Parameters
        ----------
        objects
            Rows of the table of objects, in order, ``unlisted`` columns too.
        described
            Names of the columns that say what image an object is in.
        """
        raise NotImplementedError(f"{self.name} has details but does not make them")

    def summarise_slice(self, objects: pa.Table, images: pa.Table) -> pa.Table:
        """Return what the ``summaries`` need of a slice of images, on a worker.

        Keep it light: the rows of all slices come together on one worker.

        Parameters
        ----------
        objects
            Rows of the table of objects, with ``_image``: the image's row in ``images``.
        images
            The catalog's rows of the slice, by image_id.
        """
        raise NotImplementedError(f"{self.name} has summaries but does not make them")

    def merge_summaries(self, parts: Sequence[pa.Table]) -> pa.Table:
        """Merge what slices gave, on a worker; associative. By default rows are put together."""
        return pa.concat_tables(parts)

    def finish_summaries(self, merged: pa.Table) -> Mapping[str, pa.Table]:
        """Return the ``summaries`` by name, made of what all slices gave, in order of image_id."""
        raise NotImplementedError(f"{self.name} has summaries but does not make them")

    def frame(self, found: Mapping[str, Any]) -> pd.DataFrame:
        """Turn the answer for one image into a table with one numbered row per object."""
        names = in_reading_order([n for n in self.objects.names if n not in self.unlisted])
        frame = pd.DataFrame(
            {n: c.to_pandas() if isinstance(c := found[n], pa.Array) else c for n in names}
        )
        numbered = {self.singular: np.arange(1, len(frame) + 1)}
        return frame if self.singular in frame else pd.DataFrame({**numbered, **frame})
