"""The demonstration: invented patients with known organs, segmented as real ones would be."""

from pathlib import Path

from InContextSegLib.cli.phantom import LABEL_NAMES, phantom
from InContextSegLib.evaluation.metrics import evaluate_labels
from InContextSegLib.examples.support import Label
from InContextSegLib.inference.settings import PRESETS, InferenceSettings
from InContextSegLib.jobs.segment import SegmentJob, Source, run
from InContextSegLib.progress import Report
from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.volumes.files import make_folder, read_volume, write_volume
from InContextSegLib.volumes.geometry import Kind

LABELLED_PATIENTS = (1, 2, 3)
NEW_PATIENT = 7
TOLERANCE_MM = 6.0  # one slice of the phantom


def run_demo(folder: Path, report: Report) -> tuple[dict, str]:
    """Write three labelled patients and a new one, segment the new one from files, and compare with the truth.

    Returns:
        The record with the scores per label, and what a person reads.
    """
    images, labels = folder / "examples" / "images", folder / "examples" / "labels"
    for path in (images, labels):
        make_folder(path)
    for seed in LABELLED_PATIENTS:
        image, truth = phantom(seed)
        write_volume(images / f"patient_{seed}.nii.gz", image)
        write_volume(labels / f"patient_{seed}.nii.gz", truth)
    image, truth = phantom(NEW_PATIENT)
    write_volume(folder / "new_patient.nii.gz", image)
    job = SegmentJob(
        image=folder / "new_patient.nii.gz",
        sources=(Source(images, labels),),
        output=folder / "new_patient_labels.nii.gz",
        settings=InferenceSettings(**PRESETS["normal"] | {"supports": 8}),
        intensities=Intensities.named("ct-soft"),
        labels=tuple(Label(value, name) for value, name in LABEL_NAMES.items()),
        overwrite=True,
    )
    record = run(job, report)
    mask = read_volume(job.output, Kind.LABELS)
    scores = evaluate_labels(mask.array, truth.array, truth.geometry.spacing_mm, list(LABEL_NAMES), TOLERANCE_MM)
    record["scores"] = {
        LABEL_NAMES[value]: {"dice": score.dice, "hd95_mm": score.hd95_mm} for value, score in scores.items()
    }
    lines = [
        f"{name:<10} Dice {score['dice']:.3f}   HD95 {score['hd95_mm']:.1f} mm"
        for name, score in record["scores"].items()
    ]
    lines += [f"{what}: {file['path']}" for what, file in record["files"].items()]
    return record, "\n".join([*lines, f"Took {record['seconds']:.1f} s, from files to files."])
