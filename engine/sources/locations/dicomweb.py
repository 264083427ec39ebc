"""DICOMweb (PS3.18): the instances of a PACS, presented as files of a folder.

A root's path is ``dicomweb+https://host/path``. Its files are ``study/series/instance.dcm``, listed
by QIDO-RS and fetched by WADO-RS in their stored transfer syntax. An instance never changes, so its
size and times are 0, and a catalogued instance is not fetched again. Credentials come from
``~/.netrc``. dicomweb-client parses the responses of a PACS, without the limits that apply to
files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from io import BytesIO
from typing import Any, BinaryIO

from engine.errors import EngineError, MissingExtra, SourceUnreadable
from engine.sources.failures import DENIED
from engine.sources.locations.folder import FileStat

PREFIX = "dicomweb+"

TIMEOUT_S = 60.0
"""Timeout of a response, seconds."""

GONE, REFUSED = (404, 410), (401, 403)
"""Status codes for an instance that no longer exists, or that is denied (RFC 9110, 15.5)."""

MOST_STUDIES = 5
"""Consecutive studies that can't be listed, after which the service counts as unreachable."""

_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"


class SourceUnreachable(EngineError, ConnectionError):
    """Unusable DICOMweb service: (problem,)."""

    def __str__(self) -> str:
        return (
            f"The DICOMweb service can't be used ({self.args[0]}). Check its URL below [roots] in "
            "cohort.toml, the network, and the credentials in ~/.netrc; nothing was changed."
        )


def is_dicomweb(place: str) -> bool:
    """Return True if a root's path is that of a DICOMweb service."""
    return place.startswith(PREFIX)


def walk_instances(url: str) -> Iterator[FileStat]:
    """Yield all instances of a service, study by study, in a fixed order.

    A study that can't be listed is yielded as a folder with a problem, unless `MOST_STUDIES` in a
    row fail.

    Raises
    ------
    SourceUnreachable, MissingExtra
    """
    client = _client(url)
    try:
        found = client.search_for_studies(get_remaining=True)
        studies = sorted(_uid(study, _STUDY) for study in found)
    except Exception as error:  # requests and the client raise many types, with UIDs in their texts
        raise SourceUnreachable(type(error).__name__) from None
    in_a_row = 0
    for study in studies:
        try:
            instances = client.search_for_instances(study, get_remaining=True)
            paths = sorted(
                f"{study}/{_uid(found, _SERIES)}/{_uid(found, _INSTANCE)}.dcm"
                for found in instances
            )
        except Exception as error:
            in_a_row += 1
            if in_a_row >= MOST_STUDIES:
                raise SourceUnreachable(type(error).__name__) from None
            yield FileStat(f"{study}/", 0, 0, 0, "unreadable")
            continue
        in_a_row = 0
        for path in paths:
            yield FileStat(path, 0, 0, 0)


def holds_studies(url: str) -> bool:
    """Return True if a service has any study, without listing all.

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
        ``unreadable`` or ``vanished``; the next ingest tries again.
    """
    study, series, instance = path.removesuffix(".dcm").split("/")
    out = BytesIO()
    try:
        found = _client(url).retrieve_instance(study, series, instance)
        found.save_as(out, enforce_file_format=True)
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in GONE:
            raise SourceUnreadable("vanished", f"the PACS has it no more ({status})") from None
        what = DENIED if status in REFUSED else "the PACS did not give it"
        raise SourceUnreadable("unreadable", f"{what} ({status or type(error).__name__})") from None
    out.seek(0)
    return out


def _uid(found: dict[str, Any], tag: str) -> str:
    return str(found[tag]["Value"][0])


def _client(url: str) -> Any:
    try:
        from dicomweb_client.api import DICOMwebClient
    except ImportError:
        raise MissingExtra("dicomweb-client", "dicom", "to ask a PACS") from None
    # Both log UIDs, which are identifiers.
    for name in ("dicomweb_client", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return DICOMwebClient(url.removeprefix(PREFIX), permissive_uid=True, timeout=TIMEOUT_S)
