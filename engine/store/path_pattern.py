"""Path pattern: fields from the folders and the name of a source."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from engine.errors import ConfigError

DEFAULT_LAYOUT = "{date}/{subject}/{experiment}/{name}"

FIELDS = ("date", "subject", "experiment", "name")
"""Fields that every table has, empty if a pattern lacks them."""

_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")


@dataclass(frozen=True)
class PathPattern:
    """Pattern that extracts fields from the end of a path.

    Parameters
    ----------
    pattern
        Folders separated by ``/``, placeholders in braces, each within one folder. The last one
        is matched against the file's name without its suffix.

    Examples
    --------
    >>> PathPattern("{date}/{subject}/{experiment}/{name}").fields("raw/2018-03-01/s1/exp1/a.png")
    {'date': '2018-03-01', 'subject': 's1', 'experiment': 'exp1', 'name': 'a'}
    >>> PathPattern("{subject}_{name}").fields("deep/s1_field-2.tif")
    {'subject': 's1', 'name': 'field-2'}
    """

    pattern: str = DEFAULT_LAYOUT
    _regex: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compile the pattern."""
        names = _PLACEHOLDER.findall(self.pattern)
        rest = _PLACEHOLDER.sub("", self.pattern)
        if not names or len(set(names)) != len(names) or "{" in rest or "}" in rest:
            raise ConfigError(
                f"layout {self.pattern!r}",
                "must hold placeholders such as {date}/{subject}/{experiment}/{name}, each once",
            )
        text = ""
        for piece in re.split(r"(\{[a-z][a-z0-9_]*\})", self.pattern.strip("/")):
            match = _PLACEHOLDER.fullmatch(piece)
            text += f"(?P<{match[1]}>[^/]+?)" if match else re.escape(piece)
        object.__setattr__(self, "_regex", re.compile(rf"(?:.*/)?{text}", re.DOTALL))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the placeholders, in order."""
        return tuple(_PLACEHOLDER.findall(self.pattern))

    def match(self, path: str) -> dict[str, str] | None:
        """Return the fields of a path, or None if it does not match."""
        folder, stem = _split(path)
        match = self._regex.fullmatch(f"{folder}/{stem}" if folder else stem)
        return match.groupdict() if match else None

    def fields(self, path: str) -> dict[str, str]:
        """Return the fields of a path; only its name if it does not match."""
        found = self.match(path)
        return {"name": _split(path)[1]} if found is None else found


def _split(path: str) -> tuple[str, str]:
    """Return the folder of a path, and its last name without suffix."""
    folder, _, last = path.rpartition("/")
    return folder, last.rsplit(".", 1)[0] if "." in last[1:] else last
