"""A PACS that answers badly for some of what it has: that alone is named."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import SourceUnreadable
from engine.sources.failures import may_be_the_place
from engine.sources.locations import dicomweb
from engine.sources.locations.dicomweb import (
    MOST_STUDIES,
    SourceUnreachable,
    open_instance,
    walk_instances,
)

URL = "dicomweb+https://pacs.example/dicom-web"


class Refusal(Exception):
    """What requests raises for a status: the response comes with it."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.response = type("Response", (), {"status_code": status})()


class Pacs:
    """Studies of which some can't be listed, and instances that are not given."""

    def __init__(self, bad: set[str], refusal: Exception) -> None:
        self.bad, self.refusal = bad, refusal

    def search_for_studies(self, **_: Any) -> list[dict[str, Any]]:
        return [{"0020000D": {"Value": [f"1.{n}"]}} for n in range(1, 9)]

    def search_for_instances(self, study: str, **_: Any) -> list[dict[str, Any]]:
        if study in self.bad:
            raise self.refusal
        return [{"0020000E": {"Value": ["2"]}, "00080018": {"Value": ["3"]}}]

    def retrieve_instance(self, *_: str) -> Any:
        raise self.refusal


def met(monkeypatch: pytest.MonkeyPatch, bad: set[str], refusal: Exception) -> None:
    monkeypatch.setattr(dicomweb, "_client", lambda _: Pacs(bad, refusal))


@pytest.mark.parametrize("refusal", [Refusal(500), ConnectionResetError(), TimeoutError()])
def test_a_study_that_cannot_be_listed_costs_itself(
    monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    met(monkeypatch, {"1.1", "1.2", "1.8"}, refusal)
    found = list(walk_instances(URL))
    assert [file.path for file in found if file.problem] == ["1.1/", "1.2/", "1.8/"]
    assert {file.problem for file in found if file.problem} == {"unreadable"}
    assert [file.path for file in found if not file.problem] == [
        f"1.{n}/2/3.dcm" for n in range(3, 8)
    ]


def test_many_in_a_row_are_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    met(monkeypatch, {f"1.{n}" for n in range(2, 2 + MOST_STUDIES)}, Refusal(503))
    with pytest.raises(SourceUnreachable):
        list(walk_instances(URL))


@pytest.mark.parametrize(
    ("status", "reason", "of_the_place"),
    [(404, "vanished", True), (403, "unreadable", False), (500, "unreadable", True)],
)
def test_an_instance_that_is_not_given_is_named(
    monkeypatch: pytest.MonkeyPatch, status: int, reason: str, of_the_place: bool
) -> None:
    met(monkeypatch, set(), Refusal(status))
    with pytest.raises(SourceUnreadable) as caught:
        open_instance(URL, "1.1/2/3.dcm")
    assert caught.value.reason == reason
    assert str(status) in str(caught.value)
    assert may_be_the_place(*caught.value.args) == of_the_place
