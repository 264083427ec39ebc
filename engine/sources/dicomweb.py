"""DICOMweb (PS3.18): the instances of a PACS as if they were files of a folder.

A root's path is ``dicomweb+https://host/path``. Its files are ``study/series/instance.dcm``, listed
by QIDO-RS and fetched by WADO-RS in the transfer syntax that they are stored in. An instance never
changes, so its size and times are nought, and one that is catalogued is not fetched again.
Credentials come from ``~/.netrc``. What a PACS sends is parsed by dicomweb-client, without the
bounds that files have.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from io import BytesIO
from typing import Any, BinaryIO

from engine.errors import EngineError, MissingExtra, SourceUnreadable
from engine.sources.files import FileStat

PREFIX = "dicomweb+"

TIMEOUT_S = 60.0
"""How long an answer may take, seconds."""

_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"


class SourceUnreachable(EngineError, ConnectionError):
    """A DICOMweb service can't be used: (what is wrong,)."""

    def __str__(self) -> str:
        return (
            f"The DICOMweb service can't be used ({self.args[0]}). Check its URL below [roots] in "
            "cohort.toml, the network, and the credentials in ~/.netrc; nothing was changed."
        )


def is_dicomweb(place: str) -> bool:
    """Tell whether a root's path is that of a DICOMweb service."""
    return place.startswith(PREFIX)


def walk_instances(url: str) -> Iterator[FileStat]:
    """Yield all instances of a service, study by study, in a fixed order.

    Raises
    ------
    SourceUnreachable, MissingExtra
    """
    client = _client(url)
    try:
        studies = client.search_for_studies(get_remaining=True)
        for study in sorted(_uid(found, _STUDY) for found in studies):
            instances = client.search_for_instances(study, get_remaining=True)
            paths = sorted(
                f"{study}/{_uid(found, _SERIES)}/{_uid(found, _INSTANCE)}.dcm"
                for found in instances
            )
            for path in paths:
                yield FileStat(path, 0, 0, 0)
    except Exception as error:  # requests and the client raise many types, with UIDs in their texts
        raise SourceUnreachable(type(error).__name__) from None


def holds_studies(url: str) -> bool:
    """Tell whether a service has anything at all, without a list of it.

    Raises
    ------
    SourceUnreachable, MissingExtra
    """
    client = _client(url)
    try:
        return bool(client.search_for_studies(limit=1))
    except Exception as error:
        raise SourceUnreachable(type(error).__name__) from None


def open_instance(url: str, path: str) -> BinaryIO:
    """Fetch an instance, and return it as an open file.

    Raises
    ------
    SourceUnreadable
        ``unreadable``; the next ingest tries again.
    """
    study, series, instance = path.removesuffix(".dcm").split("/")
    out = BytesIO()
    try:
        found = _client(url).retrieve_instance(study, series, instance)
        found.save_as(out, enforce_file_format=True)
    except Exception as error:
        name = type(error).__name__
        raise SourceUnreadable("unreadable", f"the PACS did not give it ({name})") from None
    out.seek(0)
    return out


def _uid(found: dict[str, Any], tag: str) -> str:
    return str(found[tag]["Value"][0])


def _client(url: str) -> Any:
    try:
        from dicomweb_client.api import DICOMwebClient
    except ImportError:
        raise MissingExtra("dicomweb-client", "dicom", "to ask a PACS") from None
    # Both write UIDs, which are identifiers, to their logs.
    for name in ("dicomweb_client", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return DICOMwebClient(url.removeprefix(PREFIX), permissive_uid=True, timeout=TIMEOUT_S)
