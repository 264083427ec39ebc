"""Pages that are executed: what lies in the reader's folder, and what is shortened."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.images import discs, put

PARSED_ONLY = {
    "docs/index.md: cohort ingest COHORT data/acquisitions": "README.md has the same commands",
    "docs/explanation/segmentation.md: set_of() { cohort phantom marrow $1 --images $2 --seed $3 "
    "--variety $4 --scale $5": "trains for hours",
    "docs/how-to/deploy.md: export DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=True":
        "needs several hosts; tests/distributed/test_two_hosts.py has them",
    "docs/how-to/kubernetes.md: with engine.cluster(\"kubernetes\", workers=4) as cluster:":
        "needs Kubernetes; make deploy-test has it",
}  # fmt: skip
"""Blocks with commands or Python that are parsed and not executed, with the reason."""


@dataclass(frozen=True)
class Scenario:
    """Folder in which the blocks of a page are executed, in order.

    Parameters
    ----------
    prepare
        Makes the files that the page takes for granted.
    given
        Python that comes before each block of Python: names that the page takes for granted.
    replaced
        Texts of the page that are other ones here: sizes, and paths of the whole machine.
    extras
        Packages without which the page is skipped.
    """

    prepare: Callable[[Path], None]
    given: str = ""
    replaced: Mapping[str, str] = field(default_factory=dict)
    extras: tuple[str, ...] = ()


def cohort(folder: Path, *commands: str) -> None:
    """Run commands of Cohort in a folder."""
    for command in commands:
        subprocess.run(f"cohort {command}", shell=True, check=True, cwd=folder)


def acquisitions(folder: Path, width: int = 128) -> None:
    """Make some images with circles, of two subjects."""
    for n in range(4):
        day = folder / "data" / "acquisitions" / "2018-03-01"
        image = discs(n, (128, width), radii=(12.0, 24.0))
        put(day / f"s{n % 2 + 1}" / "exp1" / f"field-{n:03}.png", image)


def ingested(folder: Path) -> None:
    """Make a cohort with images and no results."""
    acquisitions(folder)
    cohort(folder, "ingest COHORT data/acquisitions")


def with_circles(folder: Path) -> None:
    """Make a cohort with images and circles."""
    ingested(folder)
    cohort(folder, "run COHORT circles")


def with_subjects(folder: Path) -> None:
    """Make a cohort of wide images with circles, facts about its subjects, and a CSV."""
    acquisitions(folder, width=640)
    cohort(folder, "ingest COHORT data/acquisitions")
    (folder / "COHORT" / "subjects.csv").write_text("subject,dose,born\ns1,3,1980-05-06\ns2,1,\n")
    file = folder / "COHORT" / "cohort.toml"
    file.write_text('subjects = "subjects.csv"\n' + file.read_text())
    cohort(folder, "run COHORT circles")


def with_cine(folder: Path, images: str, drawings: str) -> None:
    """Make a heart: its DICOM files in a folder, and what is drawn on them in another one."""
    cohort(folder, "phantom cine made --patients 1 --slices 3 --phases 3 --size 120")
    for made, place in ((folder / "made" / "dicoms", images), (folder / "made", drawings)):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        made.rename(folder / place)
    (folder / "key").write_text("00" * 32)


def with_study(folder: Path) -> None:
    """Make a heart whose images and drawings are in one folder, and an empty cohort."""
    with_cine(folder, "aside", "data/study")
    (folder / "aside").rename(folder / "data" / "study" / "dicoms")
    cohort(folder, "ingest COHORT data/study/dicoms")


def with_scans(folder: Path) -> None:
    """Make a heart, and a scan at the path that the page names."""
    with_cine(folder, "scans", "data/contours")
    first = next((folder / "scans").rglob("*.dcm"))
    (folder / "scans" / "a" / "b").mkdir(parents=True)
    first.rename(folder / "scans" / "a" / "b" / "0001.dcm")


def with_drawings(folder: Path) -> None:
    """Make a cohort with drawn contours."""
    with_study(folder)
    file = folder / "COHORT" / "cohort.toml"
    place = folder / "data" / "study"
    file.write_text(
        f'{file.read_text()}\n[annotations.manual]\npath = "{place}"\nformat = "sunnybrook"\n'
    )
    cohort(folder, "ingest COHORT")


def with_slides(folder: Path) -> None:
    """Make slides of four subjects, and their masks under the same paths."""
    cohort(folder, "phantom marrow made --images 4 --size 160x128")
    for made, place in (("slides", "slides"), ("masks", "masks")):
        (folder / "made" / made).rename(folder / place)


def with_segments(folder: Path) -> None:
    """Make a cohort with label images of classes and objects."""
    with_slides(folder)
    cohort(folder, "ingest COHORT slides", "run COHORT segment --model marrow")


def with_weights(folder: Path) -> None:
    """Make weights, and a cohort of slides without results."""
    import torch

    from engine.kernels.networks.factory import create_network

    with_slides(folder)
    cohort(folder, "ingest COHORT slides --layout '{name}'")
    network = create_network("unet", {"width": 32}, channels=3, classes=4)
    torch.save(network.state_dict(), folder / "weights.pt")


def nothing(folder: Path) -> None:
    """Make nothing."""


def machine(path: str) -> dict[str, str]:
    """Return the replacement of a path of the whole machine by one in the folder."""
    return {path: f"{{folder}}{path}"}


OPEN = "import engine, pandas\ncohort = engine.open('COHORT')\n"

LABELS = (
    OPEN
    + """
from pathlib import Path
labels = next(Path('COHORT/pixels').glob('*.zarr/labels/segment_objects@*'))
stack, key8 = labels.parents[1].stem, labels.name.partition('@')[2]
row = cohort.table('segment_objects').iloc[0]
t = cohort.images().frame.set_index('image_id').loc[row['image_id'], 't']
"""
)

SHORT = {
    "--steps 4000": "--steps 3 --crop-px 64 --batch 2",
    "--steps 500": "--steps 3 --crop-px 64",
}

SCENARIOS: dict[str, Scenario] = {
    "README.md": Scenario(
        acquisitions, replaced={"make demo": "cohort demo demo", " --channel DAPI": ""}
    ),
    "docs/reference/python.md": Scenario(with_circles),
    "docs/reference/conditions.md": Scenario(
        with_subjects, given=OPEN, replaced={"count > 30": "count >= 1"}
    ),
    "docs/reference/dicom.md": Scenario(
        with_scans,
        replaced={"cine DIR": "cine DIR --patients 1 --slices 2 --phases 2"},
        extras=("pydicom",),
    ),
    "docs/how-to/ingest-folders.md": Scenario(acquisitions, replaced=machine("/data/")),
    "docs/how-to/tune-parameters.md": Scenario(ingested),
    "docs/how-to/measure-cells.md": Scenario(nothing),
    "docs/how-to/export.md": Scenario(with_circles),
    "docs/how-to/open-in-a-viewer.md": Scenario(with_circles, given=OPEN),
    "docs/how-to/repair-damage.md": Scenario(with_circles),
    "docs/how-to/privacy-key.md": Scenario(nothing),
    "docs/how-to/ingest-pacs.md": Scenario(
        lambda folder: with_cine(folder, "scans", "data/contours"),
        replaced={
            **machine("/data/"),
            **machine("/secure/"),
            "cohort ingest COHORT dicomweb+https://pacs.example/dicom-web\n": "",
        },
        extras=("pydicom",),
    ),
    "docs/how-to/deploy.md": Scenario(with_circles),
    "docs/how-to/train-a-model.md": Scenario(with_slides, replaced=SHORT, extras=("torch",)),
    "docs/how-to/import-a-model.md": Scenario(
        with_weights, given="import torch\nnetwork = torch.nn.Conv2d(3, 2, 3)\n", extras=("torch",)
    ),
    "docs/how-to/read-batches.md": Scenario(with_drawings, extras=("pydicom", "torch")),
    "docs/explanation/contours.md": Scenario(
        with_study, replaced=machine("/data/"), extras=("pydicom", "torch")
    ),
    "docs/explanation/segmentation.md": Scenario(with_segments, given=LABELS, extras=("torch",)),
}
"""The scenario of each page with commands or Python."""
