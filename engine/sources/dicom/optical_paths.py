"""Names of the optical paths of a slide (PS3.3, C.8.12.5), which are its channels.

Descriptions are free text, which may name a patient, so only words for stains, dyes and markers are
taken from them. A path without one is named by the wavelength of its light.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydicom.dataset import Dataset

from engine.sources.base import tidy_name
from engine.sources.dicom.values import items, number, text

_STAINS = re.compile(
    r"""
      DAPI | Hoechst(\ ?\d{5})? | DRAQ5 | SYTOX(\ \w+)? | propidium\ iodide | PI
    | FITC | TRITC | Texas\ ?Red | Cy-?\ ?[2357](\.5)? | PE | APC
    | (Alexa(\ ?Fluor)?|AF|ATTO|Opal|Dy[Ll]ight)[\ -]?\d{3}
    | E?[GYCBR]FP | mCherry | mKate2? | tdTomato | Venus | Cerulean | autofluorescence
    | bright-?\ ?field | phase\ contrast | DIC | H\ ?&\ ?E | ha?ematoxylin | eosin | DAB | PAS
    | CD\ ?\d{1,3}[a-z]? | Ki-?67 | pan-?(CK|cytokeratin) | CK\ ?\d{1,2} | PD-?L?1 | FOXP3 | SOX10
    | HER-?2 | ER | PR | p53 | vimentin | actin | tubulin
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Words that name a channel; a description is taken if it is one of them, whole."""


def path_names(dataset: Dataset, identifiers: Sequence[str]) -> tuple[str, ...]:
    """Return a name for each optical path, "" for one without; empty if none has one.

    Parameters
    ----------
    identifiers
        Identifiers of the paths in the order of the channels.
    """
    paths = {
        text(item, "OpticalPathIdentifier"): item for item in items(dataset, "OpticalPathSequence")
    }
    names = tuple(_name(paths[one]) if one in paths else "" for one in identifiers)
    return names if any(names) else ()


def _name(path: Dataset) -> str:
    found = tidy_name(text(path, "OpticalPathDescription"))
    if _STAINS.fullmatch(found):
        return found
    wavelength = number(path, "IlluminationWaveLength")
    return f"{wavelength:g} nm" if wavelength is not None and wavelength > 0 else ""
