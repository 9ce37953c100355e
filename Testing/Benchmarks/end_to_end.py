"""Real volumes through the command line, as a user would: Dice and HD95, and the output's geometry by two libraries.

`python -m Testing.Benchmarks.end_to_end --output runs/end-to-end`; real images as for the tests (INCONTEXTSEG_DATA).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK

from InContextSegLib.evaluation.metrics import evaluate_labels, summarise
from InContextSegLib.evaluation.study import own_slices
from InContextSegLib.slices.plan import SlicePlan
from InContextSegLib.volumes.files import read_volume, write_volume
from InContextSegLib.volumes.geometry import Kind, Volume, across_slices

DATA = Path(os.environ.get("INCONTEXTSEG_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
# OpenKBP's files hold HU + 1024.
OPENKBP = ("openkbp_hn_ct/images", "openkbp_hn_ct/labels", ("--window", "864", "1264"))
HIPPOCAMPUS = ("msd_hippocampus/images", "msd_hippocampus/labels", ())
SARCOMA = ("ibsi_sts/images_mr_t1", "ibsi_sts/labels_mr_t1", ())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--targets", type=int, default=2, help="of every kind")
    parser.add_argument("--preset", default="normal")
    parser.add_argument("--adapt", default="off", help="auto, off or seconds")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    print("| data | examples | label | cases | Dice | HD95 mm | seconds per volume |\n|---|---|---|---|---|---|---|")
    for name, source in (("msd_hippocampus", HIPPOCAMPUS), ("openkbp_hn_ct", OPENKBP)):
        table(name, "8 other patients" if source is HIPPOCAMPUS else "all other patients", from_others(source, options))
    for name, source in (("ibsi_sts", SARCOMA), ("openkbp_hn_ct", OPENKBP)):
        table(name, "5 slices of the volume", from_own_slices(source, options))


def from_others(source, options):
    files = sorted((DATA / source[0]).iterdir())
    for target in files[: options.targets]:
        folders = [options.output / f"{target.name}_examples" / name for name in ("images", "labels")]
        for folder, origin in zip(folders, source[:2], strict=True):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for other in [each for each in files if each != target][:8]:
                shutil.copy(DATA / origin / other.name, folder)
        truth = read_volume(DATA / source[1] / target.name, Kind.LABELS)
        yield segment(target, folders, truth, source[2], "others", options), truth, None


def from_own_slices(source, options):
    for target in sorted((DATA / source[0]).iterdir())[: options.targets]:
        truth = read_volume(DATA / source[1] / target.name, Kind.LABELS)
        axis = across_slices(truth.geometry)
        drawn, array_axis = own_slices(truth, axis), SlicePlan.of(truth.geometry, axis).array_axis
        sparse = np.zeros_like(truth.array)
        for index in drawn:
            here = tuple(index if each == array_axis else slice(None) for each in range(3))
            sparse[here] = truth.array[here]
        labels = options.output / f"{target.name}_five.nii.gz"
        write_volume(labels, Volume(sparse, truth.geometry, Kind.LABELS))
        extra = (*source[2], "--slices", str(drawn[0]), str(drawn[-1]))
        yield segment(target, (target, labels), truth, extra, "own", options), truth, (drawn, array_axis)


def segment(target, support, truth, extra, kind, options):
    """Run the command, check the output's geometry with SimpleITK and nibabel, and return its record and mask."""
    output = options.output / f"{kind}_{target.name}"
    command = [sys.executable, "-m", "InContextSegLib", "segment", "--image", target, "--support", *support]
    command += [
        "--output",
        output,
        "--preset",
        options.preset,
        "--adapt",
        options.adapt,
        "--overwrite",
        "--json",
        "--quiet",
        *extra,
    ]
    done = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
    mask, image = SimpleITK.ReadImage(str(output)), SimpleITK.ReadImage(str(target))
    for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        if not np.allclose(getattr(mask, what)(), getattr(image, what)(), atol=1e-5):
            sys.exit(f"{output}: {what} differs from the target's by SimpleITK.")
    if not np.allclose(nibabel.load(output).affine, nibabel.load(target).affine, atol=1e-4):
        sys.exit(f"{output}: the affine differs from the target's by nibabel.")
    return json.loads(done.stdout), read_volume(output, Kind.LABELS)


def table(name, examples, results):
    scores, seconds = {}, []
    for (record, mask), truth, drawn in results:
        seconds.append(record["seconds"])
        guess, wanted = mask.array, truth.array
        if drawn:
            guess, wanted = (np.delete(array, drawn[0], drawn[1]) for array in (guess, wanted))
        values = [label["value"] for label in record["labels"].values()]
        for value, score in evaluate_labels(guess, wanted, truth.geometry.spacing_mm, values).items():
            scores.setdefault(value, []).append(score)
    for value, cases in scores.items():
        generator = np.random.default_rng(0)
        dice, hd95 = (summarise([getattr(case, m) for case in cases], generator).mean for m in ("dice", "hd95_mm"))
        print(f"| {name} | {examples} | {value} | {len(cases)} | {dice:.3f} | {hd95:.1f} | {np.mean(seconds):.0f} |")


if __name__ == "__main__":
    main()
