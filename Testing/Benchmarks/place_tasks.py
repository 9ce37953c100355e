"""Tasks in which place decides: one of two kidneys, one of two parotid glands, one organ among its like.

`python -m Testing.Benchmarks.place_tasks --data path/to/data --more path/to/train` cuts pictures out of the development
data and segments them from 16 examples of other patients as a study does: with everything, with heads that do not know
the place of a pixel, and by the network alone. One of two kidneys is the label's component on one side of the picture.
Examples of the neck are slices of the patients in `--more`, the folder of what may be trained on; the patients that
judge were never trained on.
"""

import argparse
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from skimage.measure import label

from InContextSegLib.evaluation.study import Case, DataSet, Run, opened_session
from InContextSegLib.examples.support import LabelledVolume
from InContextSegLib.inference.settings import InferenceSettings
from InContextSegLib.models import fitted
from InContextSegLib.models.loading import Model, load_model
from InContextSegLib.progress import Report
from InContextSegLib.slices.intensities import Scale
from InContextSegLib.slices.plan import SlicePlan
from InContextSegLib.volumes.colour import LUMINANCE
from InContextSegLib.volumes.files import read_volume
from InContextSegLib.volumes.geometry import Kind, Volume, across_slices, picture_geometry
from InContextSegLib.volumes.overlap import dice

ORGANS = {"parotid right": 3, "parotid left": 4, "brainstem": 1, "larynx": 6}
WINDOW = Scale(864, 1264)  # of files that hold HU + 1024
PLACES = (0.3, 0.5, 0.7)  # of an organ's slices, those that are cut
EXAMPLES, SIDE = 16, 256
Pictures = dict[str, list[LabelledVolume]]  # by patient


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--more", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(2)
    model = load_model(Model())
    print("| task | cases | everything | heads without place | network alone |\n|---|---|---|---|---|", flush=True)
    means = []
    for name, examples, tests in tasks(options):
        rows = []
        for calibrate, place in ((True, True), (True, False), (False, True)):
            with nullcontext() if place else mock.patch.object(fitted, "_spread", without_place):
                rows.append(scores(model, name, examples, tests, calibrate))
        means.append([np.mean(row) for row in rows])
        print(f"| {name} | {len(tests)} |", " | ".join(f"{mean:.3f}" for mean in means[-1]), "|", flush=True)
    print("| **mean** |  |", " | ".join(f"**{mean:.3f}**" for mean in np.mean(means, axis=0)), "|")


def scores(model, name, examples, tests, calibrate):
    """Dice of every test picture."""
    run = Run(Path(), Path(), Model(), calibrate=calibrate)
    case = Case(name, tests[0], tuple(examples), LUMINANCE)
    session = opened_session(case, DataSet(name, {name: 1}), model, EXAMPLES, run, Report())
    settings = InferenceSettings(supports=EXAMPLES, draws=1, axes=tuple(session.supports))
    found = [session.segment(test.image, settings, Report()).mask.array == 1 for test in tests]
    return [dice(mask, test.labels.array == 1) for mask, test in zip(found, tests, strict=True)]


def without_place(x, spread=fitted._spread):
    """What heads know of place is divided by infinity."""
    found = spread(x)
    found[-fitted.PLACE :] = torch.inf
    return found


def tasks(options) -> Iterator[tuple[str, list[LabelledVolume], list[LabelledVolume]]]:
    """Names, examples and tests; no patient is among both."""
    for name, right in (("kidney right in the picture", True), ("kidney left in the picture", False)):
        pictures = kidneys(options.data / "kidney_t2_mr", right)
        patients = np.random.default_rng(0).permutation(sorted(pictures)).tolist()
        parts = patients[: round(0.7 * len(patients))], patients[round(0.7 * len(patients)) :]
        yield name, *(drawn({each: pictures[each] for each in part}) for part in parts)
    for name, value in ORGANS.items():
        examples, tests = (necks(folder / "openkbp_hn_ct", value) for folder in (options.more, options.data))
        yield name, drawn(examples), [each for own in tests.values() for each in own]


def drawn(pictures: Pictures) -> list[LabelledVolume]:
    every = [each for own in pictures.values() for each in own]
    return [every[index] for index in np.random.default_rng(0).permutation(len(every))[:EXAMPLES]]


def kidneys(folder: Path, right: bool) -> Pictures:
    """Pictures with a kidney on either side, one of them labelled."""
    found: Pictures = {}
    for path in sorted((folder / "labels").iterdir()):
        (image,) = (folder / "images").glob(f"{path.stem}.*")
        parts = label(read_volume(path, Kind.LABELS).array[0] > 0)
        largest = sorted(range(1, parts.max() + 1), key=lambda part, parts=parts: -(parts == part).sum())[:2]
        sides = {bool(np.argwhere(parts == part)[:, 1].mean() > parts.shape[1] / 2): part for part in largest}
        if len(sides) == 2:
            volume, patient = read_volume(image), path.stem.split("_")[0]
            labels = Volume((parts == sides[right])[None].astype(np.uint8), volume.geometry, Kind.LABELS)
            found.setdefault(patient, []).append(LabelledVolume(volume, labels, patient))
    return found


def necks(folder: Path, value: int) -> Pictures:
    """Slices through an organ, as pictures."""
    found: Pictures = {}
    for path in sorted((folder / "images").iterdir()):
        volume, labels = read_volume(path), read_volume(folder / "labels" / path.name, Kind.LABELS)
        plan = SlicePlan.of(volume.geometry, across_slices(volume.geometry), SIDE)
        cut = plan.extract_labels(labels) == value
        shown, geometry = np.flatnonzero(cut.any(axis=(1, 2))), picture_geometry((1, SIDE, SIDE))
        for place in PLACES if len(shown) else ():
            number = int(shown[round(place * (len(shown) - 1))])
            image = Volume(plan.extract(volume, WINDOW, [number]), geometry)
            mask = Volume(cut[number : number + 1].astype(np.uint8), geometry, Kind.LABELS)
            found.setdefault(path.name, []).append(LabelledVolume(image, mask, path.name))
    return found


if __name__ == "__main__":
    main()
