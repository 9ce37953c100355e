"""Whole segmentations from files to files: what is written, where, and that nothing else is touched."""

import hashlib
import json
from pathlib import Path
from unittest.mock import Mock

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation uses this name
import torch
from PIL import Image

from InContextSegLib.errors import Cancelled, InputError, OutputError, WeightsError
from InContextSegLib.examples.support import Label, LabelledVolume
from InContextSegLib.inference.settings import InferenceSettings
from InContextSegLib.jobs import segment as jobs
from InContextSegLib.jobs.segment import SegmentJob, Source, run
from InContextSegLib.jobs.task import drawn_axis
from InContextSegLib.models.catalog import find
from InContextSegLib.models.loading import Model, choose_device, load_model
from InContextSegLib.models.networks import build
from InContextSegLib.models.weights import save_weights
from InContextSegLib.progress import Report
from InContextSegLib.volumes.files import read_segments, read_volume, write_volume
from InContextSegLib.volumes.geometry import Kind, Volume, across_slices
from Testing.Library.fake_segmenter import LABEL, SPACING_MM, Echo, Threshold, grid, saved, scan, use

FAST = {"supports": 4, "draws": 1}


@pytest.fixture
def folder(tmp_path):
    """A labelled case ("case.nii.gz"), a target ("target.nii.gz"), and a folder for outputs."""
    saved(tmp_path, "case", *scan(0))
    saved(tmp_path, "target", *scan(1))
    (tmp_path / "out").mkdir()
    return tmp_path


@pytest.fixture(autouse=True)
def network(monkeypatch):
    return use(monkeypatch, Threshold())


def job_in(folder, image="target.nii.gz", output="out/mask.nii.gz", sources=None, settings=None, **others):
    sources = sources or [("case.nii.gz", "case_labels.nii.gz")]
    return SegmentJob(
        image=folder / image,
        sources=tuple(Source(*(folder / name for name in names)) for names in sources),
        output=folder / output,
        settings=InferenceSettings(**(FAST | (settings or {}))),
        **others,
    )


def written(folder):
    return sorted(path.name for path in (folder / "out").iterdir())


def test_every_output_is_named_after_the_mask_and_its_sha256_is_recorded(folder):
    job = job_in(folder, settings={"draws": 2}, probabilities=True)
    record = run(job, Report())
    stems = ["", "_picture", "_probability_1", "_uncertainty"]
    assert written(folder) == sorted(
        ["mask.json", *(f"mask{stem}.{'png' if 'pic' in stem else 'nii.gz'}" for stem in stems)]
    )
    assert json.loads((folder / "out" / "mask.json").read_text(encoding="utf-8")) == record
    assert set(record["files"]) == {"mask", "uncertainty", "picture", "probability 1"}
    for file in record["files"].values():
        content = (folder / "out" / file["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
    assert record["labels"]["label 1"]["voxels"] == int((read_volume(job.output, Kind.LABELS).array == 1).sum())


def test_mask_and_uncertainty_lie_where_an_oblique_left_handed_target_lies(folder):
    geometry = grid(turned=True, left_handed=True)
    assert np.linalg.det(geometry.affine[:3, :3]) < 0
    saved(folder, "target", *scan(1, geometry=geometry))
    run(job_in(folder, settings={"draws": 2}), Report())
    image = sitk.ReadImage(str(folder / "target.nii.gz"))
    for name in ("mask", "mask_uncertainty"):
        other = sitk.ReadImage(str(folder / "out" / f"{name}.nii.gz"))
        for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            np.testing.assert_allclose(getattr(other, what)(), getattr(image, what)(), atol=1e-5)
        affines = [nibabel.load(folder / each).affine for each in ("target.nii.gz", f"out/{name}.nii.gz")]
        np.testing.assert_allclose(*affines, atol=1e-5)
    truth = scan(1, geometry=geometry)[1].array
    assert (read_volume(folder / "out" / "mask.nii.gz", Kind.LABELS).array == truth).mean() > 0.95


def test_patients_whose_files_have_one_name_are_told_apart_in_the_calibration(folder):
    sources = []
    for seed in range(3):
        (folder / f"patient{seed}").mkdir()
        saved(folder / f"patient{seed}", "mr", *scan(seed))
        sources.append((f"patient{seed}/mr.nii.gz", f"patient{seed}/mr_labels.nii.gz"))
    told = run(job_in(folder, sources=sources, settings={"calibrate": True}), Report())["provenance"]["calibration"]
    assert told["dice"]["1"] > 0.9


@pytest.mark.parametrize("left_handed", [False, True])
def test_slices_labelled_in_the_target_come_back_exactly_as_drawn(folder, left_handed):
    image, labels = scan(1, geometry=grid(turned=True, left_handed=left_handed))
    drawn = np.zeros_like(labels.array)
    drawn[2, 3:5, 3:20], drawn[5, 20:23, 2:7] = 1, 2
    saved(folder, "target", image, Volume(drawn, image.geometry, Kind.LABELS))
    record = run(job_in(folder, sources=[("target.nii.gz", "target_labels.nii.gz")]), Report())
    mask = read_volume(folder / "out" / "mask.nii.gz", Kind.LABELS).array
    assert sorted(record["given_slices"]) == [2, 5]
    np.testing.assert_array_equal(mask[[2, 5]], drawn[[2, 5]])
    assert mask[3].any()


def test_labels_of_the_target_may_be_spread_over_several_files(folder):
    image, labels = scan(1)
    sources = []
    for index in (2, 4):
        drawn = np.zeros_like(labels.array)
        drawn[index, 3:5, 3:20] = 1
        write_volume(folder / f"drawn_{index}.nii.gz", Volume(drawn, image.geometry, Kind.LABELS))
        sources.append(("target.nii.gz", f"drawn_{index}.nii.gz"))
    run(job_in(folder, sources=sources), Report())
    mask = read_volume(folder / "out" / "mask.nii.gz", Kind.LABELS).array
    assert (mask[2] > 0).sum() == (mask[4] > 0).sum() == 2 * 17


def test_slices_drawn_in_a_sagittal_view_are_examples_along_that_axis(folder):
    image, labels = scan(1, geometry=grid(spacing_mm=(1.0, 1.0, 1.0)))
    drawn = np.zeros_like(labels.array)
    drawn[..., [9, 13, 17]] = labels.array[..., [9, 13, 17]]
    saved(folder, "target", image, Volume(drawn, image.geometry, Kind.LABELS))
    record = run(job_in(folder, sources=[("target.nii.gz", "target_labels.nii.gz")]), Report())
    assert record["next_slice"]["axis"] == "sagittal"
    assert record["labels"]["label 1"]["voxels"] > 2 * drawn.sum()


def drawn_on(folder, index, spacing_mm=(1.0, 1.0, 1.0)):
    """The target with its labels on a few slices only; what was drawn, and the sources of a job."""
    image, labels = scan(1, geometry=grid((24, 24, 24), spacing_mm))
    drawn = np.zeros_like(labels.array)
    drawn[index] = labels.array[index]
    saved(folder, "target", image, Volume(drawn, image.geometry, Kind.LABELS))
    return labels.array, drawn, [("target.nii.gz", "target_labels.nii.gz")]


@pytest.mark.parametrize("axes", [("coronal",), ("coronal", "axial"), ("axial", "coronal")])
def test_cut_across_the_slices_drawn_these_stay_and_the_rest_is_still_segmented(folder, caplog, axes):
    truth, drawn, sources = drawn_on(folder, [6, 10, 14])
    drawn[10, 12, 12] = 0
    labels = Volume(drawn, grid((24, 24, 24), (1.0, 1.0, 1.0)), Kind.LABELS)
    write_volume(folder / "target_labels.nii.gz", labels)
    run(job_in(folder, sources=sources, settings={"axes": axes}), Report())
    mask = read_volume(folder / "out" / "mask.nii.gz", Kind.LABELS).array
    assert np.array_equal(mask[[6, 10, 14]], drawn[[6, 10, 14]])
    assert (mask > 0).sum() > 0.8 * (truth > 0).sum()
    assert "choose axis axial" in caplog.text


def test_labels_drawn_in_the_target_stay_out_of_what_lies_outside_the_box(folder):
    _, drawn, sources = drawn_on(folder, [6, 10, 14])
    run(job_in(folder, sources=sources, box=((5, 8, 10), (12, 12, 14))), Report())
    mask = read_volume(folder / "out" / "mask.nii.gz", Kind.LABELS).array
    assert np.array_equal(mask[10, 8:12, 10:14], drawn[10, 8:12, 10:14])
    beyond = np.ones(mask.shape, bool)
    beyond[5:12, 8:12, 10:14] = False
    assert not mask[beyond].any()


def test_a_result_that_is_only_what_was_drawn_is_said_to_be_so(folder, caplog):
    _, drawn, sources = drawn_on(folder, np.s_[:, 8:14])
    record = run(job_in(folder, sources=sources), Report())
    assert record["labels"]["label 1"]["voxels"] == (drawn > 0).sum()
    assert "Nothing was found beyond the labels drawn in the target" in caplog.text


def test_a_target_whose_every_slice_is_labelled_is_said_to_be_so(folder, caplog):
    run(job_in(folder, sources=[("target.nii.gz", "target_labels.nii.gz")], support_slices="all"), Report())
    assert "Every slice of the target is an example itself" in caplog.text


@pytest.mark.parametrize(
    "geometry",
    [
        grid((9, 40, 30), (2.0, 0.7, 1.1)),
        grid(turned=True, left_handed=True),
        grid((6, 24, 24), (2.5, 2.5, 2.5), left_handed=True),
    ],
)
def test_examples_may_have_another_size_spacing_and_orientation(folder, geometry):
    saved(folder, "case", *scan(3, geometry=geometry))
    sources = [("case.nii.gz", "case_labels.nii.gz"), ("target.nii.gz", "target_labels.nii.gz")]
    record = run(job_in(folder, sources=sources[:1]), Report())
    assert record["labels"]["label 1"]["voxels"] == pytest.approx((scan(1)[1].array > 0).sum(), rel=0.2)


def test_colour_pictures_serve_as_examples_and_target(folder):
    image, labels = (volume.array[3] for volume in scan(0))
    colours = np.stack([image, image // 2, image], axis=-1).astype(np.uint8)
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for name in ("a", "b"):
        Image.fromarray(colours).save(folder / "images" / f"{name}.png")
        Image.fromarray(labels.astype(np.uint8)).save(folder / "labels" / f"{name}.png")
    Image.fromarray(colours).save(folder / "target.png")
    job = job_in(folder, "target.png", "out/mask.png", [("images", "labels")], {"draws": 2})
    record = run(job, Report())
    assert written(folder) == ["mask.json", "mask.png", "mask_picture.png", "mask_uncertainty.nii.gz"]
    assert np.asarray(Image.open(folder / "out" / "mask.png")).shape == (24, 24)
    assert record["labels"]["label 1"]["voxels"] == pytest.approx(labels.sum(), rel=0.2)


def test_pictures_as_examples_serve_for_a_volume_along_the_first_axis_asked_for(folder, monkeypatch):
    use(monkeypatch, Echo())
    saved(folder, "case", *scan(0, geometry=grid((1, 24, 24))))
    record = run(job_in(folder, settings={"axes": ("coronal", "axial")}), Report())
    assert record["provenance"]["settings"]["axes"] == ["coronal"]
    assert written(folder) == ["mask.json", "mask.nii.gz", "mask_picture.png"]


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "axis"),
    [
        ((6, 24, 24), (3.0, 1.0, 1.0), "axial"),
        ((24, 6, 24), (1.0, 3.0, 1.0), "coronal"),
        ((24, 24, 6), (1.0, 1.0, 3.0), "sagittal"),
        ((24, 24, 24), (1.0, 1.1, 1.0), "axial"),
        ((1, 24, 24), (1.0, 9.0, 1.0), "axial"),
        ((24, 1, 24), (1.0, 1.0, 1.0), "coronal"),
        ((24, 24, 1), (1.0, 1.0, 1.0), "sagittal"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_a_volume_is_cut_across_its_thickest_slices(shape, spacing_mm, axis, turned):
    assert across_slices(grid(shape, spacing_mm, turned, turned)) == axis


@pytest.mark.parametrize(("indices", "axis"), [([4, 9, 20], "coronal"), ([7], "coronal"), ([7, 8], None), ([], None)])
def test_the_axis_people_drew_along_is_found_where_no_drawn_slice_has_a_neighbour(indices, axis):
    image, labels = scan(0, geometry=grid((24, 24, 24)))
    drawn = np.zeros_like(labels.array)
    drawn[5:15, indices, 5:15] = 1
    pair = LabelledVolume(image, Volume(drawn, image.geometry, Kind.LABELS), "case")
    assert drawn_axis([pair]) == axis
    assert drawn_axis([pair, LabelledVolume(image, labels, "finished")]) is None


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.json", "mask_picture.png", "mask_probability_1.nii.gz"])
def test_an_output_that_exists_is_refused_and_left_as_it_was(folder, name, network):
    (folder / "out" / name).write_bytes(b"precious")
    with pytest.raises(InputError, match=rf"{name} exists already; .*--overwrite"):
        run(job_in(folder, probabilities=True), Report())
    assert written(folder) == [name]
    assert (folder / "out" / name).read_bytes() == b"precious"
    assert network.calls == 0
    run(job_in(folder, probabilities=True, overwrite=True), Report())
    assert (folder / "out" / name).read_bytes() != b"precious"


def test_a_file_that_only_the_run_before_wrote_does_not_stay_beside_another_result(folder):
    run(job_in(folder, settings={"draws": 2}, probabilities=True), Report())
    changed = folder / "out" / "mask_probability_1.nii.gz"
    changed.write_bytes(b"changed by hand")
    (folder / "out" / "mask_notes.txt").touch()
    run(job_in(folder, overwrite=True), Report())
    kept = ["mask.json", "mask.nii.gz", "mask_notes.txt", "mask_picture.png", "mask_probability_1.nii.gz"]
    assert written(folder) == kept and changed.read_bytes() == b"changed by hand"


def test_a_mask_of_the_run_before_in_another_format_stays_with_all_that_belongs_to_it(folder):
    run(job_in(folder, settings={"draws": 2}), Report())
    run(job_in(folder, output="out/mask.seg.nrrd", overwrite=True), Report())
    assert {"mask.nii.gz", "mask_uncertainty.nii.gz", "mask.seg.nrrd"} <= set(written(folder))


def test_a_file_of_the_run_before_that_cannot_be_removed_is_told_and_harms_nothing(folder, monkeypatch, caplog):
    run(job_in(folder, settings={"draws": 2}), Report())
    stale = folder / "out" / "mask_uncertainty.nii.gz"
    monkeypatch.setattr(Path, "unlink", Mock(side_effect=PermissionError(13, "Permission denied")))
    assert "uncertainty" not in run(job_in(folder, overwrite=True), Report())["files"]
    assert f"{stale} belongs to the run before and cannot be removed: Permission denied." in caplog.text


@pytest.mark.parametrize(
    "output", ["target.nii.gz", "case.nii.gz", "case_labels.nii.gz", "labels/a.nii.gz", "out/../target.nii.gz"]
)
def test_an_output_that_is_an_input_is_refused_even_when_overwriting(folder, output):
    for name, volume in zip(("images", "labels"), scan(4), strict=True):
        (folder / name).mkdir()
        write_volume(folder / name / "a.nii.gz", volume)
    sources = [("case.nii.gz", "case_labels.nii.gz"), ("images", "labels")]
    before = (folder / output).read_bytes()
    with pytest.raises(InputError, match="is also an input; choose another name"):
        run(job_in(folder, output=output, sources=sources, overwrite=True), Report())
    assert (folder / output).read_bytes() == before


@pytest.mark.parametrize(
    ("output", "error", "sentence"),
    [
        ("out/mask.txt", InputError, "must end in one of"),
        ("nowhere/mask.nii.gz", OutputError, "does not exist; create it first"),
        ("out/mask.png", InputError, "a picture holds one slice, but the volume has 6"),
        ("folder.nii.gz", InputError, "is a folder; choose another name"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(folder, network, output, error, sentence):
    (folder / "folder.nii.gz").mkdir()
    with pytest.raises(error, match=sentence):
        run(job_in(folder, output=output), Report())
    assert network.calls == 0


def test_a_folder_without_permission_is_refused_before_the_work(folder, network, monkeypatch):
    monkeypatch.setattr(jobs.os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="permission is missing"):
        run(job_in(folder), Report())
    assert network.calls == 0


def test_when_one_output_fails_none_is_written_and_earlier_ones_stay(folder, monkeypatch):
    (folder / "out" / "mask.nii.gz").write_bytes(b"earlier")

    def full(*_, **__):
        raise OutputError("the disk is full")

    monkeypatch.setattr(jobs, "montage", full)
    with pytest.raises(OutputError, match="the disk is full"):
        run(job_in(folder, overwrite=True), Report())
    assert written(folder) == ["mask.nii.gz"]
    assert (folder / "out" / "mask.nii.gz").read_bytes() == b"earlier"


def test_a_cancelled_job_writes_nothing(folder):
    report = Report()
    report.cancel()
    with pytest.raises(Cancelled, match="Cancelled after 0"):
        run(job_in(folder), report)
    assert written(folder) == []


def test_a_range_of_slices_is_counted_as_stored_and_leaves_the_others_empty(folder):
    saved(folder, "target", *scan(1, geometry=grid(left_handed=True)))
    run(job_in(folder, slice_range=(1, 2)), Report())
    mask = read_volume(folder / "out" / "mask.nii.gz", Kind.LABELS).array
    assert [index for index in range(6) if mask[index].any()] == [1, 2]


@pytest.mark.parametrize("wanted", [(2, 1), (-1, 2), (0, 6)])
def test_a_range_of_slices_outside_the_target_is_refused(folder, wanted):
    with pytest.raises(InputError, match="but the target has axial slices 0 to 5"):
        run(job_in(folder, slice_range=wanted), Report())


def test_a_job_that_contradicts_itself_is_refused(folder):
    with pytest.raises(InputError, match="A box and a range of slices came"):
        job_in(folder, slice_range=(1, 2), box=((0, 0, 0), (1, 1, 1)))
    with pytest.raises(InputError, match="Every label needs a name of its own"):
        job_in(folder, labels=(Label(1, "liver"), Label(2, "liver")))


@pytest.mark.parametrize("output", ["", ".", "/"])
def test_an_output_without_a_name_is_refused(output):
    with pytest.raises(InputError, match="no file name"):
        SegmentJob(Path("target.nii.gz"), (), Path(output))


def test_only_the_labels_asked_for_are_written_under_their_names(folder):
    image, labels = scan(0)
    both = labels.array.copy()
    both[:, 20:, 20:] = 7
    saved(folder, "case", image, Volume(both, image.geometry, Kind.LABELS))
    record = run(job_in(folder, labels=(LABEL,)), Report())
    assert list(record["labels"]) == ["cube"]
    assert record["labels"]["cube"]["millilitres"] == pytest.approx(
        record["labels"]["cube"]["voxels"] * np.prod(SPACING_MM) / 1000, abs=1e-3
    )


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "mps", "meta", "cuda:99", ""])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(InputError, match="Asked to compute on"):
        choose_device(name)
    assert choose_device("cpu") == torch.device("cpu")


class TestWeights:
    """Loading the network itself, without the fake."""

    @pytest.fixture(autouse=True)
    def network(self):
        return None

    def test_weights_of_one_s_own_are_loaded_and_named_by_their_sha256(self, tmp_path):
        torch.manual_seed(1)
        path = tmp_path / "own.safetensors"
        save_weights(path, build(find("universeg")).state_dict())
        segmenter, provenance, size = load_model(Model("universeg", path))
        assert provenance == {"entry": "universeg", "weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        assert (size, segmenter.training) == (128, False)

    def test_weights_of_another_model_are_refused(self, tmp_path):
        path = tmp_path / "own.safetensors"
        save_weights(path, build(find("universeg")).state_dict())
        with pytest.raises(WeightsError, match="do not fit the model 'universeg-v1'"):
            load_model(Model("universeg-v1", path))

    def test_a_model_nobody_knows_is_refused(self):
        with pytest.raises(InputError, match="no model"):
            load_model(Model("nobody"))


def test_weights_that_are_not_here_are_never_fetched_by_a_segmentation(tmp_path, monkeypatch):
    monkeypatch.setenv("INCONTEXTSEG_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="are not on this computer; fetch them with 'incontextseg weights ensure"):
        load_model(Model("universeg-v1"))
    assert list(tmp_path.iterdir()) == []


def test_neighbouring_slices_drawn_in_the_target_do_not_make_the_others_empty(folder):
    image, labels = scan(1)
    drawn = np.zeros_like(labels.array)
    drawn[0:5, 3:5, 3:20] = 1
    saved(folder, "target", image, Volume(drawn, image.geometry, Kind.LABELS))
    record = run(job_in(folder, sources=[("target.nii.gz", "target_labels.nii.gz")]), Report())
    assert sorted(record["given_slices"]) == [0, 1, 2, 3, 4]
    assert record["provenance"]["support"]["axial"]["examples"] == 5


def test_slices_drawn_in_the_target_are_known_again_when_only_a_box_is_segmented(folder):
    image, labels = scan(1)
    drawn = np.zeros_like(labels.array)
    drawn[2] = labels.array[2]
    saved(folder, "target", image, Volume(drawn, image.geometry, Kind.LABELS))
    low, high = (0, 2, 2), tuple(length - 2 for length in image.geometry.shape)
    job = job_in(folder, sources=[("target.nii.gz", "target_labels.nii.gz")], box=(low, high))
    assert run(job, Report())["given_slices"] == [2]


def test_a_segmentation_names_its_segments_and_is_an_example_itself(folder):
    job = job_in(folder, output="out/mask.seg.nrrd", settings={"draws": 2}, labels=(Label(1, "cube"),))
    run(job, Report())
    assert written(folder) == ["mask.json", "mask.seg.nrrd", "mask_picture.png", "mask_uncertainty.nrrd"]
    assert [(each.name, each.value) for each in read_segments(job.output)] == [("cube", 1)]
    again = job_in(folder, "case.nii.gz", "out/case.nii.gz", sources=[("target.nii.gz", "out/mask.seg.nrrd")])
    assert run(again, Report())["labels"]["label 1"]["voxels"] > 0
