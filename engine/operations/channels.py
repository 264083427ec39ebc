"""Channels as parameters of operations: by number, or by a name that is looked up in each image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, ValidationInfo

from engine.errors import ParameterError, UsageError

MOST_NAMES = 12
"""Maximum number of names that an error lists."""


class _Named:
    """Marker of parameters that choose a channel."""


def _check(value: Any, info: ValidationInfo) -> Any:
    named = isinstance(value, str) and value.strip()
    numbered = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not named and not numbered:
        raise ParameterError(info.field_name, value, "a number from 0, or a name")
    return value


Channel = Annotated[int | str, BeforeValidator(_check), _Named()]
"""Type of a parameter that chooses a channel, by number from 0 or by name. Its value is looked up
in each image with `engine.Image.channel`."""


class NoSuchChannel(UsageError):
    """None of the selected images has a channel of this name: (name, names that they have)."""

    def __str__(self) -> str:
        name, there = self.args
        if not there:
            return (
                f"No selected image has a channel {name!r}: their channels have no names. Give its "
                "number from 0, or name them in cohort.toml (channels under [roots.<name>]) and: "
                "cohort ingest COHORT --rehash"
            )
        more = f" and {len(there) - MOST_NAMES} more" if len(there) > MOST_NAMES else ""
        listed = ", ".join(map(repr, there[:MOST_NAMES]))
        return f"No selected image has a channel {name!r}. Channels: {listed}{more}."


def find_channel(wanted: int | str, names: Sequence[str], count: int) -> int | None:
    """Return the number of a channel; None if there is none, or if several have the name.

    Examples
    --------
    >>> names = ("DAPI", "CD3", "")
    >>> [find_channel(wanted, names, 3) for wanted in ("CD3", "cd3", 2, 3)]
    [1, None, 2, None]
    """
    if isinstance(wanted, int):
        return wanted if wanted < count else None
    places = [n for n, name in enumerate(names) if name == wanted]
    return places[0] if len(places) == 1 else None


class ChannelChoice:
    """Members of an operation about the channels that its parameters choose."""

    inputs: ClassVar[tuple[str, ...]]
    model_fields: ClassVar[Any]

    @property
    def named_channels(self) -> tuple[str, ...]:
        """Channels that parameters of the type `Channel` name; those given by number are not."""
        fields = type(self).model_fields.items()
        values = (getattr(self, name) for name, field in fields if _chooses_channel(field))
        return tuple(value for value in values if isinstance(value, str))

    @property
    def reads_channel_names(self) -> bool:
        """True if the result depends on the names of channels."""
        return "channels" in self.inputs or bool(self.named_channels)


def _chooses_channel(field: Any) -> bool:
    waiting = [*field.metadata, field.annotation]
    while waiting:
        one = waiting.pop()
        if isinstance(one, _Named):
            return True
        waiting += [*getattr(one, "__metadata__", ()), *getattr(one, "__args__", ())]
    return False


def require_names(wanted: Iterable[str], images: Sequence[Sequence[str] | None]) -> None:
    """Refuse a name of a channel that no image has.

    Parameters
    ----------
    images
        Names of the channels of each image, None for one without.

    Raises
    ------
    NoSuchChannel
    """
    for name in wanted:
        if all(find_channel(name, names or (), 0) is None for names in images):
            raise NoSuchChannel(name, sorted({*_all_names(images)}))


def _all_names(images: Sequence[Sequence[str] | None]) -> Iterator[str]:
    for names in images:
        yield from (name for name in names or () if name)
