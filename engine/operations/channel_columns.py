"""Columns with a value for each channel, which tables show as a column for each channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self, cast


class ChannelColumns:
    """Mixin of operations whose results have lists with a value for each channel of their image.

    Attributes
    ----------
    channel_columns
        Columns of ``object_schema`` that are such lists.
    """

    channel_columns: ClassVar[tuple[str, ...]] = ()

    def for_channels(self, channels: Sequence[str]) -> Self:
        """Return the operation for tables of images that have these channels."""
        if not self.channel_columns:
            return self
        bound = cast(Any, self).model_copy()
        bound._channels = tuple(channels)
        return cast(Self, bound)

    @property
    def unused_columns(self) -> frozenset[str]:
        """Columns of ``object_schema`` that these parameters leave empty: in no table."""
        return frozenset()

    @property
    def table_channels(self) -> tuple[str, ...]:
        """Channels that tables have columns for."""
        return tuple(getattr(self, "_channels", ()))

    def expanded_columns(self, name: str) -> tuple[str, ...]:
        """Return the columns of tables that one of the ``channel_columns`` becomes."""
        return tuple(f"{name}_{channel}" for channel in self.table_channels)
