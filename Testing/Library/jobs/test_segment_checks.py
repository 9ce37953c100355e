"""What a segmentation sees of its examples before the work, and leaves out of its result."""

import numpy as np
import pytest

from InContextSegLib.inference.settings import InferenceSettings
from InContextSegLib.jobs.segment import SegmentJob, Source, run
from InContextSegLib.progress import Report
from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.volumes.files import read_volume
from InContextSegLib.volumes.geometry import Kind, Volume
from Testing.Library.fake_segmenter import Threshold, grid, saved, scan, use


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A target, and a network that calls bright what is bright."""
    use(monkeypatch, Threshold())
    saved(tmp_path, "target", *scan(1))
    return tmp_path


def job_in(folder, name, image="target.nii.gz", output="mask.nii.gz", settings=None, **others):
    """Segment a target by one labelled case."""
    return SegmentJob(
        image=folder / image,
        sources=(Source(folder / f"{name}.nii.gz", folder / f"{name}_labels.nii.gz"),),
        output=folder / output,
        settings=InferenceSettings(**({"supports": 4, "draws": 1} | (settings or {}))),
        **others,
    )


def test_a_speck_far_from_the_structure_is_left_out_as_no_example_has_one(folder):
    geometry = grid((12, 24, 24))
    saved(folder, "whole", *scan(0, geometry=geometry))
    image, labels = scan(4, geometry=geometry)
    bright = image.array.copy()
    bright[3:5, 20:22, 1:3] += 200
    saved(folder, "spotted", Volume(bright, image.geometry, Kind.INTENSITY), labels)
    found = {}
    for postprocess in (False, True):
        output, settings = f"{postprocess}.nii.gz", {"postprocess": postprocess}
        job = job_in(folder, "whole", "spotted.nii.gz", output, settings)
        record = run(job, Report())
        found[postprocess] = read_volume(folder / f"{postprocess}.nii.gz", Kind.LABELS).array
    assert found[False][3:5, 20:22, 1:3].any() and not found[True][3:5, 20:22, 1:3].any()
    assert (found[True] > 0).sum() > 0.9 * (labels.array > 0).sum()
    assert record["provenance"]["postprocessing"]["1"] == {"pieces": 1, "removed": 1, "voxels": 8}


@pytest.mark.parametrize(("shift", "warned"), [(0, False), (1024, True)])
def test_a_window_in_which_nothing_is_seen_is_named_before_the_work(folder, caplog, shift, warned):
    image, labels = scan(0)
    saved(folder, "ct", Volume(image.array + np.int16(shift), image.geometry, Kind.INTENSITY), labels)
    job = job_in(folder, "ct", intensities=Intensities((-160, 240)))
    run(job, Report())
    assert ("above the window of -160 to 240" in caplog.text) is warned
