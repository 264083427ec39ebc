"""Base class of operations: a named question about an image, with its parameters and answer."""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from engine.deprecations import RenamedMember, adopt_earlier_names, warn_deprecated
from engine.errors import ParameterError, UsageError
from engine.operations.chains.keys import with_upstream_keys
from engine.operations.channel_columns import ChannelColumns
from engine.operations.channels import ChannelChoice
from engine.operations.column_order import LAST_COLUMNS, x_before_y
from engine.operations.image import Image as Image
from engine.operations.image import ImageFailed as ImageFailed
from engine.operations.labels import LabelSpec
from engine.operations.outlines import Outline, outline_objects
from engine.operations.parameter_errors import told_in_words
from engine.store.digests import digest_of

if TYPE_CHECKING:
    import pandas as pd

INPUTS = ("content", "spacing", "rescale", "annotation", "fields", "channels")
"""Inputs that an operation can declare. "fields" is the image's catalog identity: its source and
`Image.fields`. Without it, images with otherwise equal inputs share one result. "channels" are the
names of all channels; an operation that names a channel by a parameter needs no declaration."""

LABELS = "labels"
"""Result name of the label image, for an operation with `Operation.label_classes`."""

Found = Mapping[str, "Sequence[Any] | NDArray[Any]"]
"""Result for an image: a column for each field of ``object_schema``, and `LABELS` if it labels
pixels."""


class Operation(LabelSpec, ChannelColumns, ChannelChoice, BaseModel):
    """Named, versioned question with its parameters; small, frozen, picklable.

    Subclasses set the class variables, declare parameters as fields, and implement `measure`.
    Parameter values are validated once, on construction.

    Attributes
    ----------
    name, version
        Identity; increase the version when the meaning of the result changes.
    object_schema
        Schema of one object.
    inputs
        Inputs that the result depends on, out of `INPUTS`.
    resources
        Resources that a worker must offer, e.g. ``{"GPU": 1}``.
    object_name, averaged_columns
        Name of one object in tables (the column of its number, unless ``object_schema`` has a
        column of that name), and the columns of ``object_schema`` to average by image and by
        experiment.
    pixel_sizes
        Those of ``averaged_columns`` that are sizes in pixels. If ``object_schema`` also has
        ``spacing_um``, an experiment with several spacings has no mean of these.
    qc_columns
        Further columns of ``object_schema`` with distribution and outliers in quality control.
    column_labels
        Column labels in quality control, with units: ``{"radius_px": "radius, px"}``.
    hidden_columns
        Columns of ``object_schema`` that are kept for pictures but hidden from tables.
    cohort_tables
        Names of further tables, computed from all objects at once: per series, or for the whole
        cohort.
    cohort_tables_version
        Version of the rule for these tables; a new version rebuilds them from existing results.
    detail_tables
        Names of further tables with rows for the parts of an object.
    non_key_parameters
        Parameters that can't change the result (a batch size), excluded from the key.
    alternatives
        Groups of mutually exclusive parameters: a given one replaces the declarations of the others
        in cohort.toml.
    image_columns
        Columns of `summarise_images`: in the table by image, and as mean and standard deviation
        over images in the table by experiment.
    order_columns
        Columns that order the objects of an image, if ``object_schema`` has them.
    upstream_parameters
        Parameters that name other operations of the cohort, whose results it reads, or are None.
    whole_objects
        That of ``upstream_parameters`` whose instances a block reads whole: those that have their
        first pixel in the block, and ``halo_px`` around them.
    """

    # JSON has no infinities or NaN, so distinct values would get equal keys: reject them.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]
    version: ClassVar[int] = 1
    object_schema: ClassVar[pa.Schema]
    inputs: ClassVar[tuple[str, ...]] = ("content",)
    resources: ClassVar[Mapping[str, float]] = {}
    object_name: ClassVar[str] = "object"
    averaged_columns: ClassVar[tuple[str, ...]] = ()
    pixel_sizes: ClassVar[tuple[str, ...]] = ()
    qc_columns: ClassVar[tuple[str, ...]] = ()
    column_labels: ClassVar[Mapping[str, str]] = {}
    hidden_columns: ClassVar[frozenset[str]] = frozenset()
    cohort_tables: ClassVar[tuple[str, ...]] = ()
    cohort_tables_version: ClassVar[int] = 1
    detail_tables: ClassVar[tuple[str, ...]] = ()
    non_key_parameters: ClassVar[frozenset[str]] = frozenset()
    alternatives: ClassVar[tuple[frozenset[str], ...]] = ()
    image_columns: ClassVar[tuple[str, ...]] = ()
    order_columns: ClassVar[tuple[str, ...]] = ("y", "x")
    upstream_parameters: ClassVar[tuple[str, ...]] = ()
    whole_objects: ClassVar[str | None] = None
    _upstream: dict[str, Operation] = PrivateAttr(default_factory=dict)
    _channels: tuple[str, ...] = PrivateAttr(default=())

    # Earlier names, for one version.
    singular: ClassVar[Any] = RenamedMember("object_name")
    quantities: ClassVar[Any] = RenamedMember("averaged_columns")
    watched: ClassVar[Any] = RenamedMember("qc_columns")
    captions: ClassVar[Any] = RenamedMember("column_labels")
    unlisted: ClassVar[Any] = RenamedMember("hidden_columns")
    neutral: ClassVar[Any] = RenamedMember("non_key_parameters")
    by_image: ClassVar[Any] = RenamedMember("image_columns")
    measure_images: ClassVar[Any] = RenamedMember("summarise_images")
    details: ClassVar[Any] = RenamedMember("detail_tables")
    detail_slice: ClassVar[Any] = RenamedMember("make_details")
    summaries: ClassVar[Any] = RenamedMember("cohort_tables")
    summaries_version: ClassVar[Any] = RenamedMember("cohort_tables_version")
    measure_each: ClassVar[Any] = RenamedMember("measure_batch")
    first_use: ClassVar[Any] = RenamedMember("first_run_notice")
    own_threads: ClassVar[Any] = RenamedMember("set_threads")
    runs_on: ClassVar[Any] = RenamedMember("compute_device")
    annotation: ClassVar[Any] = RenamedMember("extra_input_digest")

    def __init_subclass__(cls, **named: Any) -> None:
        """Serve subclasses that use the earlier names."""
        super().__init_subclass__(**named)
        adopt_earlier_names(cls)
        if isinstance(schema := vars(cls).get("objects"), pa.Schema):  # else a parameter
            warn_deprecated(f"{cls.__name__}.objects is called object_schema now.")
            cls.object_schema = schema
            delattr(cls, "objects")
        for column in getattr(cls, "object_schema", pa.schema([])).names:
            if column in LAST_COLUMNS:
                taken = "another name: every table has a column called so"
                raise ParameterError(f"object_schema of {cls.__name__}", column, taken)

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
        """SHA-256 of the weights, for operations that have weights."""
        return None

    @property
    def identity(self) -> dict[str, Any]:
        """Values that the key is computed from."""
        parameters = {k: v for k, v in self.parameters.items() if k not in self.non_key_parameters}
        identity = {
            "operation": self.name,
            "version": self.version,
            "parameters": parameters,
            "weights": self.weights,
        }
        return with_upstream_keys(self, identity) if self.upstream_names else identity

    @property
    def upstream_names(self) -> Mapping[str, str]:
        """Names of the operations whose results it reads, by parameter."""
        named = {parameter: getattr(self, parameter) for parameter in self.upstream_parameters}
        return {parameter: name for parameter, name in named.items() if name is not None}

    @property
    def upstream(self) -> Mapping[str, Operation]:
        """Operations whose results it reads, by parameter; empty before `Cohort` binds them."""
        return self._upstream

    def with_upstream(self, found: Mapping[str, Operation]) -> Self:
        """Return the operation with those whose results it reads."""
        bound = self.model_copy()
        bound._upstream = dict(found)
        return bound

    @property
    def key(self) -> str:
        """Digest of name, declared version, parameters and weights."""
        return digest_of(self.identity)

    @property
    def halo_px(self) -> int:
        """Context that a block of a giant image needs on each side, pixels."""
        return 0

    def halo_of(self, spacing_um: tuple[float, float] | None) -> int:
        """Return ``halo_px`` for an image of a spacing (y, x), if the halo depends on it."""
        return self.halo_px

    @abstractmethod
    def measure(self, image: Image) -> Mapping[str, Sequence[Any] | NDArray[Any]]:
        """Measure one image: return a column for each field of ``object_schema``, of one length.

        Object coordinates refer to the whole image. For a block, return only objects that belong to
        its ``core_region``. An empty result (no objects) is valid.

        Raises
        ------
        ImageFailed
            With a reason code, if the image can't be measured. Any other exception also fails the
            image, under the exception's name.
        """

    def measure_batch(self, images: Iterable[Image]) -> Iterator[tuple[Found | Exception, float]]:
        """Measure the images of a unit in order: yield the result or exception, and seconds.

        By default one after the other. Override to process several images at once (a network); the
        failure of one image must not affect the others.
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
        """Load resources shared by all images (a model, a function), once on each worker.

        An error here is the environment's: it ends the run and fails no image.
        """

    def first_run_notice(self) -> str | None:
        """Return a notice about slow work before a machine's first image, or None.

        Called if the workers run on the user's machine.
        """
        return None

    def __call__(self, array: NDArray[Any]) -> pd.DataFrame:
        """Measure one array (y, x), (c, y, x) or (y, x, 3), for tuning parameters.

        For an image of `engine.Cohort.images` the result equals that of a run.

        Returns
        -------
        One row per object: its number, from 1, and the columns of ``object_schema``.

        Raises
        ------
        UsageError
            If the operation reads annotations, which no array carries.
        """
        if "annotation" in self.inputs:
            raise UsageError(
                f"{self.name} reads annotations, which an array does not carry. Run it on "
                "some images: cohort.run(operation, where=\"subject == '...'\")."
            )
        image = Image.of(array)
        fields = image.fields if "fields" in self.inputs else {}
        names = image.channel_names if self.reads_channel_names else ()
        return self.frame(self.measure(replace(image, fields=fields, channel_names=names)))

    def set_threads(self, count: int) -> None:
        """Set the number of threads of a worker that each task of this operation may use."""

    def compute_device(self) -> str:
        """Return the device that this process computes on, for the record: "cpu" or "cuda"."""
        return "cpu"

    def extra_input_digest(self, source: str) -> str | None:
        """Return the digest of the operation's own data about a source, as a further input.

        Called at planning, for operations with "annotation" in ``inputs``. Ingested annotations do
        not need it: the catalog's column ``annotation`` has their digest.
        """
        return None

    def merge_objects(self, image: NDArray[np.int64], found: pa.Table) -> pa.Table:
        """Merge objects across the blocks of giant images, before tables are built.

        By default nothing is merged: an object belongs to the block that holds its centre.

        Parameters
        ----------
        image
            Number of each object's image, ascending.
        found
            The objects: the columns of ``object_schema``.

        Returns
        -------
        Objects with one more column, ``_image``: their image's number, ascending.
        """
        return found.append_column("_image", pa.array(image))

    def summarise_images(
        self, image: NDArray[np.int64], found: pa.Table, total: int
    ) -> Mapping[str, NDArray[np.float64]]:
        """Summarise all objects of each image: the columns ``image_columns``.

        Parameters
        ----------
        image
            Number of each object's image, ascending.
        found
            The objects of all images, merged.
        total
            Number of images.

        Returns
        -------
        A value for each image, (total,); NaN if undefined.
        """
        return {}

    def outlines(self, found: Mapping[str, NDArray[Any]]) -> list[Outline]:
        """Return the outlines that quality control draws over an image for its objects.

        By default circles for objects with y, x and radius_px, small marks for those with y and x
        only, and no outlines otherwise. Must not depend on anything but the objects.

        Parameters
        ----------
        found
            The columns of ``object_schema`` for one whole image, each of one length.
        """
        return outline_objects(found)

    def make_details(self, objects: pa.Table, described: Sequence[str]) -> Mapping[str, pa.Table]:
        """Build a slice of each of the ``detail_tables`` on a worker.

        Parameters
        ----------
        objects
            Rows of the table of objects, in order, including ``hidden_columns`` columns.
        described
            Names of the columns that identify an object's image.
        """
        raise NotImplementedError(f"{self.name} has details but does not make them")

    def summarise_slice(self, objects: pa.Table, images: pa.Table) -> pa.Table:
        """Extract the data for the ``cohort_tables`` from a slice of images, on a worker.

        Keep it small: the rows of all slices are merged on one worker.

        Parameters
        ----------
        objects
            Rows of the table of objects, with ``_image``: the image's row in ``images``.
        images
            The catalog's rows of the slice, by image_id.
        """
        raise NotImplementedError(f"{self.name} has summaries but does not make them")

    def merge_summaries(self, parts: Sequence[pa.Table]) -> pa.Table:
        """Merge the data of slices, on a worker; associative. By default concatenates rows."""
        return pa.concat_tables(parts)

    def finish_summaries(self, merged: pa.Table) -> Mapping[str, pa.Table]:
        """Build the ``cohort_tables`` by name from the merged data of all slices, by image_id."""
        raise NotImplementedError(f"{self.name} has summaries but does not make them")

    if not TYPE_CHECKING:  # pydantic's own is hidden from type checkers, too

        def __getattr__(self, name: str) -> Any:
            """Serve the earlier name of ``object_schema``."""
            if name == "objects":
                warn_deprecated(f"{type(self).__name__}.objects is called object_schema now.")
                return self.object_schema
            return super().__getattr__(name)

    def frame(self, found: Mapping[str, Any]) -> pd.DataFrame:
        """Turn the result for one image into a table with one numbered row per object."""
        import pandas as pd

        names = x_before_y([n for n in self.object_schema.names if n not in self.hidden_columns])
        frame = pd.DataFrame(
            {n: c.to_pandas() if isinstance(c := found[n], pa.Array) else c for n in names}
        )
        numbered = {self.object_name: np.arange(1, len(frame) + 1)}
        return frame if self.object_name in frame else pd.DataFrame({**numbered, **frame})
