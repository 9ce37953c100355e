"""The command line when things go wrong: one sentence, the right exit code, and nothing left behind."""

import errno
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from InContextSegLib.cli import main as cli
from InContextSegLib.cli.arguments import parser
from InContextSegLib.cli.main import main
from InContextSegLib.jobs import segment as jobs
from InContextSegLib.jobs import task as tasks
from InContextSegLib.models import catalog, loading
from InContextSegLib.models.entry import CatalogEntry, Weights
from InContextSegLib.models.networks import build
from InContextSegLib.models.weights import save_weights
from InContextSegLib.volumes import files
from InContextSegLib.volumes.geometry import Kind, Volume
from Testing.Library.fake_segmenter import SIZE, Threshold, grid, saved, scan, use

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _logging_as_before():
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def folder(tmp_path):
    saved(tmp_path, "case", *scan(0))
    saved(tmp_path, "target", *scan(1))
    (tmp_path / "out").mkdir()
    return tmp_path


@pytest.fixture
def network(monkeypatch):
    return use(monkeypatch, Threshold())


def words(
    folder, *more, image="target.nii.gz", support=("case.nii.gz", "case_labels.nii.gz"), output="out/mask.nii.gz"
):
    return [
        "segment", "--image", str(folder / image), "--support", *(str(folder / name) for name in support),
        "--output", str(folder / output), "--preset", "fast", *map(str, more),
    ]  # fmt: skip


def call(arguments):
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code


def refused(capfd, folder, arguments, code, *parts):
    """Run what must fail; check code, the one sentence, and that the folder for outputs is as it was."""
    before = {path: path.read_bytes() for path in (folder / "out").iterdir()}
    assert call(arguments) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"incontextseg {arguments[0]}: ") or "unrecognized" in err
    assert err.count("\n") == 1
    assert err.endswith(".\n")
    for part in parts:
        assert part in err
    assert {path: path.read_bytes() for path in (folder / "out").iterdir()} == before
    return err


def changed(folder, name, change, kind=Kind.INTENSITY):
    """Write the file anew with its array changed."""
    volume = files.read_volume(folder / name, kind)
    write = Volume(change(volume.array.copy()), volume.geometry, kind)
    files.write_volume(folder / name, write)


def test_a_mix_of_colours_is_said_and_can_be_asked_for(folder, network, capfd):
    noise = np.random.default_rng(0).integers(90, 110, (24, 24, 3), dtype=np.uint8)
    labels = np.zeros((24, 24), np.uint8)
    labels[8:16, 8:16] = 1
    noise[labels == 1] += np.array([90, 0, 40], np.uint8)
    Image.fromarray(noise).save(folder / "a.png")
    Image.fromarray(labels).save(folder / "labels.png")
    names = {"image": "a.png", "support": ("a.png", "labels.png"), "output": "out/mask.png"}
    said = []
    for more in ([], ["--colour=0.5,-0.5,0"], ["--colour", "luminance"], ["--colour", "auto", "--window", "0", "255"]):
        assert call(words(folder, "--overwrite", *more, **names)) == 0
        said.append([line for line in capfd.readouterr().out.splitlines() if line.startswith("Grey is ")])
    assert "better than luminance" in said[0][0]
    assert said[1:] == [["Grey is 0.5 red, -0.5 green, 0 blue: asked for."], [], []]


def test_a_segmentation_says_what_it_found_and_json_can_be_parsed(folder, network, capfd):
    assert call(words(folder)) == 0
    out, err = capfd.readouterr()
    assert "label 1: " in out and "Most worth labelling next: axial slice" in out
    assert err == ""
    assert call(words(folder, "--json", "--overwrite", "--labels", "1=Würfel")) == 0
    record = json.loads(capfd.readouterr().out)
    assert list(record["labels"]) == ["Würfel"]
    assert json.loads((folder / "out" / "mask.json").read_text(encoding="utf-8")) == record


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--labels", "9"], "Label 9 (label 9) is in none of the examples"),
        (["--labels", "0"], "a label is a whole number from 1 up"),
        (["--labels", "70000"], "a label is a whole number from 1 up"),
        (["--labels", "1=a", "1=b"], "Each label value may be asked for once"),
        (["--labels", "1=a", "2=a"], "Every label needs a name of its own"),
        (["--axis", "oblique"], "invalid choice: 'oblique'"),
        (["--axis", "axial", "--axis", "axial"], "axes: asked for"),
        (["--preset", "quick"], "invalid choice: 'quick'"),
        (["--window", "ct-knee"], "There are no intensities named 'ct-knee'"),
        (["--window", "1"], "There are no intensities named '1'"),
        (["--window", "5", "1"], "low below high"),
        (["--window", "1", "2", "3"], "a name out of ct-soft"),
        (["--model", "nobody"], 'no model "nobody"'),
        (["--device", "gpu"], "Asked to compute on 'gpu'"),
        (["--supports", "0"], "supports: asked for at least 1"),
        (["--supports", "many"], "invalid int value"),
        (["--draws", "-1"], "draws: asked for at least 1"),
        (["--threshold", "nan"], "threshold: asked for a number between 0 and 1"),
        (["--threshold", "1.5"], "threshold: asked for a number between 0 and 1"),
        (["--seed", "-4"], "seed: asked for a whole number"),
        (["--slices", "3", "9"], "but the target has axial slices 0 to 5"),
        (["--box", "0", "99", "0", "5", "0", "5"], "lie inside the volume"),
        (["--box", "5", "2", "0", "5", "0", "5"], "The box i 5 to 2, j 0 to 5, k 0 to 5 must hold at least one voxel"),
        (["--box", "0", "5", "0", "5", "0", "5", "--slices", "1", "2"], "choose one of them"),
        (["--support-slices", "every:0"], "a step from 1 up"),
        (["--support-slices", "99"], "There is no axial slice 99"),
        (["--support-slices", "some"], "auto, labelled, all, every:N"),
        (["--support-slices", "0"], "none of the 1 chosen holds a label"),
        (["--colour", "green"], "auto, luminance or three weights R,G,B, not all of them zero, not 'green'"),
        (["--colour", "0,1"], "auto, luminance or three weights R,G,B"),
        (["--colour", "0,0,0"], "auto, luminance or three weights R,G,B"),
        (["--tint"], "unrecognized arguments: --tint"),
    ],
)
def test_words_that_make_no_sense_are_refused(folder, capfd, monkeypatch, more, sentence):
    if "--model" not in more:
        use(monkeypatch, Threshold())
    refused(capfd, folder, words(folder, *more), 2, sentence)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ({"image": "missing.nii.gz"}, "missing.nii.gz does not exist"),
        ({"support": ("missing.nii.gz", "case_labels.nii.gz")}, "missing.nii.gz does not exist"),
        ({"support": ("case.nii.gz", "missing.nii.gz")}, "missing.nii.gz does not exist"),
        ({"support": ("empty", "empty")}, "but it holds none"),
        ({"image": "empty"}, "holds no DICOM images"),
        ({"image": "notes.txt"}, "unknown type"),
        ({"support": ("case.nii.gz", "other_labels.nii.gz")}, "do not lie on the same grid"),
        ({"output": "out/mask.doc"}, "must end in one of"),
    ],
)
def test_files_that_are_missing_or_do_not_fit_are_refused(folder, network, capfd, names, sentence):
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("notes")
    saved(folder, "other", *scan(0, geometry=grid((7, 24, 24))))
    refused(capfd, folder, words(folder, **names), 2, sentence)


def damage(folder, how):
    target = folder / "target.nii.gz"
    if how == "truncated":
        target.write_bytes(target.read_bytes()[:2000])
        return
    image = nibabel.load(target)
    data, affine = np.asarray(image.dataobj), image.affine.copy()
    if how == "4D":
        data = np.stack([data, data], axis=-1)
    if how == "sheared":
        affine[0, 1] += 0.4
    if how == "nothing finite":
        data = np.full(data.shape, np.nan, np.float32)
    nibabel.save(nibabel.Nifti1Image(data, affine), target)
    if how == "sheared":
        changed_header = nibabel.load(target)
        changed_header.set_sform(affine, 1)
        changed_header.set_qform(None, 0)
        nibabel.save(nibabel.Nifti1Image(data, affine, changed_header.header), target)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("truncated", "is damaged or incomplete"),
        ("4D", "has 4 dimensions"),
        ("sheared", "has sheared axes"),
        ("nothing finite", "holds no finite number at all"),
    ],
)
def test_a_target_that_cannot_be_used_is_refused(folder, network, capfd, how, sentence):
    damage(folder, how)
    refused(capfd, folder, words(folder), 2, sentence)


def test_labels_that_are_all_background_are_refused(folder, network, capfd):
    changed(folder, "case_labels.nii.gz", np.zeros_like, Kind.LABELS)
    refused(capfd, folder, words(folder), 2, "holds a label; choose slices where the labels are not empty")


def test_bad_voxels_in_the_target_are_warned_of_and_a_constant_image_is_fine(folder, network, capfd):
    image = files.read_volume(folder / "target.nii.gz")
    spoilt = image.array.astype(np.float32)
    spoilt[0, 0, :3] = np.nan, np.inf, -np.inf
    nibabel.save(nibabel.Nifti1Image(spoilt.T, np.diag([1.0, 1.0, 3.0, 1.0])), folder / "target.nii.gz")
    assert call(words(folder)) == 0
    assert "3 voxels that are NaN or infinite" in capfd.readouterr().err
    saved(folder, "target", *scan(1))
    for value in (0, 7):
        changed(folder, "target.nii.gz", lambda array, value=value: np.full_like(array, value))
        assert call(words(folder, "--overwrite", "--draws", "2")) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("shape", [(1, 24, 24), (24, 1, 24), (24, 24, 1), (1, 1, 1)])
def test_a_volume_of_one_slice_works_whichever_way_it_is_stored(folder, network, capfd, shape):
    saved(folder, "target", *scan(1, geometry=grid(shape, (1.0, 1.0, 1.0))))
    saved(folder, "case", *scan(0, geometry=grid((24, 24, 24), (1.0, 1.0, 1.0))))
    assert call(words(folder, "--draws", "2")) == 0, capfd.readouterr().err


def test_the_network_of_the_software_with_other_weights_works_from_files_to_files(folder, capfd):
    torch.manual_seed(0)
    save_weights(folder / "own.safetensors", build(catalog.find("default")).state_dict())
    assert call(words(folder, "--weights", folder / "own.safetensors", "--slices", 2, 3, "--supports", 2)) == 0
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["mask.json", "mask.nii.gz", "mask_picture.png"]


def test_names_may_hold_any_letters(folder, network, capfd):
    place = folder / "Bücher 肝臓 $x_1$"
    place.mkdir()
    saved(place, "größe", *scan(0))
    support = (place / "größe.nii.gz", place / "größe_labels.nii.gz")
    arguments = words(folder, "--labels", "1=Größe $_x", support=support, output=place / "maske é.nii.gz")
    assert call(arguments) == 0
    assert "maske é.nii.gz" in capfd.readouterr().out


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_weights_that_hold_code_are_refused_and_the_code_is_not_run(folder, capfd):
    for ending in (".pt", ".safetensors"):
        path = folder / f"hostile{ending}"
        path.write_bytes(pickle.dumps({"weight": Hostile(str(folder / "ran"))}))
        refused(capfd, folder, words(folder, "--weights", path), 4, str(path))
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("name", ["missing.safetensors", "case.nii.gz", "empty.safetensors", "small.safetensors"])
def test_weights_that_are_missing_or_do_not_fit_are_refused(folder, capfd, name):
    (folder / "empty.safetensors").write_bytes(b"")
    save_weights(folder / "small.safetensors", {"weight": torch.zeros(1)})
    refused(capfd, folder, words(folder, "--weights", folder / name), 4, name)


def test_weights_with_another_hash_are_refused(folder, capfd, monkeypatch):
    save_weights(folder / "default.safetensors", {"weight": torch.zeros(1)})
    entry = catalog.find("default")
    fields = {name: getattr(entry, name) for name in ("name", "description", "model", "capability", "licence")}
    changed_entry = CatalogEntry(
        weights=Weights(file="default.safetensors", sha256="1" * 64), citation="", arguments=entry.arguments, **fields
    )
    monkeypatch.setattr(catalog, "EMBEDDED_FOLDER", folder)
    monkeypatch.setattr(loading, "find", lambda name: changed_entry)
    refused(capfd, folder, words(folder), 4, "should have sha256 " + "1" * 64)


def test_a_folder_that_is_missing_or_closed_cannot_be_written_to(folder, network, capfd, monkeypatch):
    refused(capfd, folder, words(folder, output="nowhere/mask.nii.gz"), 3, "does not exist; create it first")
    monkeypatch.setattr(jobs.os, "access", lambda *_: False)
    refused(capfd, folder, words(folder), 3, "permission is missing")


def test_an_output_that_exists_or_is_an_input_is_refused(folder, network, capfd):
    (folder / "out" / "mask.nii.gz").write_bytes(b"earlier")
    refused(capfd, folder, words(folder), 2, "exists already")
    refused(capfd, folder, words(folder, "--overwrite", output="target.nii.gz"), 2, "is also an input")


@pytest.mark.parametrize("after", range(4))
def test_a_full_disk_leaves_nothing_behind_and_names_the_file(folder, network, capfd, monkeypatch, after):
    count = iter(range(100))
    sync = os.fsync

    def full(handle):
        if next(count) >= after:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(files.os, "fsync", full)
    sentence = refused(capfd, folder, words(folder, "--draws", "2"), 3, "could not be written: the disk is full.")
    assert f"{folder / 'out' / 'mask'}" in sentence


def test_an_unexpected_error_is_one_sentence_unless_debugging(folder, capfd, monkeypatch):
    def fails(model):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(tasks, "load_model", fails)
    sentence = refused(capfd, folder, words(folder), 1, "unexpected error (RuntimeError: first line)")
    assert "run again with --debug to see where; please report it" in sentence
    with pytest.raises(RuntimeError, match="first line"):
        main(words(folder, "--debug"))


def test_an_impatient_ctrl_c_is_one_sentence_too(folder, capfd, monkeypatch):
    def interrupted(model):
        raise KeyboardInterrupt

    monkeypatch.setattr(tasks, "load_model", interrupted)
    refused(capfd, folder, words(folder), 130, "Cancelled.")


SLOW = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from Testing.Library.fake_segmenter import Threshold
from InContextSegLib.models import loading
from InContextSegLib.jobs import task as tasks
from InContextSegLib.cli.main import main

class Slow(Threshold):
    def encode(self, images):
        print("segmenting", flush=True)
        time.sleep(0.3)
        return super().encode(images)

tasks.load_model = lambda model: (Slow(), {{"weights_sha256": "0"}}, {SIZE})
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_half_way_stops_with_one_sentence_and_no_output(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *words(folder, "--draws", "200")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "segmenting\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert err.startswith("incontextseg segment: Cancelled after ")
    assert err.count("\n") == 1
    assert list((folder / "out").iterdir()) == []


def test_a_missing_file_in_a_process_of_its_own_is_one_sentence(folder):
    script = "import sys; from InContextSegLib.cli.main import main; sys.exit(main(sys.argv[1:]))"
    arguments = [sys.executable, "-c", script, *words(folder, image="missing.nii.gz")]
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"incontextseg segment: {folder / 'missing.nii.gz'} does not exist.\n"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["weights", "ensure", "nobody"], 2, 'no model "nobody"'),
        (["weights", "remove", "default"], 2, "cannot be removed"),
        (["train", "missing.toml", "--output", "out/run"], 2, "cannot be read"),
        (["train", "Resources/Recipes/universeg.toml", "--output", "case.nii.gz"], 3, "could not be made"),
        (["demo", "--output", "case.nii.gz/demo"], 3, "could not be made"),
        (["evaluate", "missing.toml", "--data", ".", "--output", "out"], 2, "cannot be read"),
        (["evaluate", "study.toml", "--data", ".", "--output", "out", "--sets", "x"], 2, "has no set 'x'"),
        (["evaluate", "study.toml", "--data", ".", "--output", "out", "--supports", "0"], 2, "supports: asked for"),
        (["evaluate", "study.toml", "--data", ".", "--output", "out", "--colour", "red"], 2, "three weights R,G,B"),
        (["evaluate", "study.toml", "--data", ".", "--output", "out", "--draws", "0"], 2, "draws: asked for"),
        (["evaluate", "study.toml", "--data", ".", "--output", "out", "--clicks", "--supports", "-1"], 2, "contexts: "),
        (["evaluate", "study.toml", "--data", ".", "--output", "out", "--clicks", "--draws", "2"], 2, "with 1 draw"),
        (["evaluate", "study.toml", "--data", ".", "--output", "out", "--seed", "-1"], 2, "seed: asked for"),
        (["evaluate", "study.toml", "--data", ".", "--output", "case.nii.gz"], 3, "could not be made"),
        (["evaluate", "study.toml", "--data", "nowhere", "--output", "out"], 2, "there is no such folder"),
    ],
)
def test_the_other_commands_refuse_in_one_sentence(folder, network, capfd, monkeypatch, arguments, code, sentence):
    (folder / "Resources").symlink_to(ROOT / "Resources")
    (folder / "study.toml").write_text('name = "s"\nsupports = [1]\n[[sets]]\nname = "a"\nlabels = { x = 1 }\n')
    monkeypatch.chdir(folder)
    monkeypatch.setattr("InContextSegLib.evaluation.study.load_model", tasks.load_model, raising=False)
    refused(capfd, folder, arguments, code, sentence)


def test_the_models_are_listed_and_json_has_no_nan(capfd, monkeypatch):
    assert call(["weights", "list", "--json"]) == 0
    assert {"default", "universeg-v1"} <= {model["name"] for model in json.loads(capfd.readouterr().out)["models"]}
    monkeypatch.setattr(cli, "_weights", lambda *_: ({"hd95_mm": float("nan"), "rows": [float("inf"), 1.5]}, ""))
    assert call(["weights", "list", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"hd95_mm": None, "rows": [None, 1.5]}


@pytest.mark.parametrize(
    ("words", "calibrates"),
    [
        ((), True),
        (("--preset", "fast"), False),
        (("--preset", "fast", "--calibration"), True),
        (("--no-calibration",), False),
    ],
)
def test_the_examples_calibrate_unless_it_has_to_be_fast_or_is_not_wanted(words, calibrates):
    options = parser().parse_args(
        ["segment", "--image", "a.nii", "--support", "b.nii", "c.nii", "--output", "d.nii", *words]
    )
    assert cli._job(options).settings.calibrate is calibrates


def test_on_a_busy_machine_threads_wait_without_spinning(monkeypatch):
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: True)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")  # so that the end of the test restores what there was
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setattr(sys, "argv", ["incontextseg", "weights", "list"])
    assert main() == 0
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    script = "import sys, InContextSegLib.cli.main; print('torch' in sys.modules)"  # it would be too late then
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
