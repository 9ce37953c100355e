"""Messages between panel and worker: what is sent is understood, and what cannot be understood is refused by name."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from InContextSegLib.config import from_mapping, to_mapping
from InContextSegLib.errors import InputError
from InContextSegLib.inference.settings import PRESETS, InferenceSettings
from InContextSegLib.training.site.datasets import DataSet, Site
from InContextSegLib.volumes.geometry import Kind
from InContextSegLib.worker.protocol import (
    ArrayRef,
    Batch,
    Cancel,
    CaseRef,
    Correct,
    Describe,
    Device,
    ExampleRef,
    FileRef,
    Look,
    Neighbours,
    Prepare,
    Preview,
    PromptsRef,
    Propagate,
    Segment,
    Stop,
    TaskSpec,
    Weights,
    arrays_of,
    decode_line,
    encode_line,
    request_of,
)
from InContextSegLib.worker.site_requests import LookAtSite, TrainOnSite
from Testing.Library.fake_segmenter import grid

GEOMETRY = grid(turned=True, left_handed=True)
IMAGE = ArrayRef.of("1a.npy", GEOMETRY)
LABELS = ArrayRef.of("2b.npy", GEOMETRY, Kind.LABELS)
TASK = TaskSpec(
    (
        ExampleRef(IMAGE, LABELS, "drawn", slices=(3, 5), values=((7, 1), (9, 2))),
        ExampleRef(
            FileRef("/d/Ärger 日本.nrrd", Kind.INTENSITY), FileRef("m.nii.gz", Kind.LABELS), "file", slices="all"
        ),
        ExampleRef(IMAGE, LABELS, "every other", slices=2),
    ),
    ((1, "Leber"), (2, "脾臓")),
    InferenceSettings(**PRESETS["normal"]),
    window=(-160.0, 240.0),
)
SITE = Site("clinic", (DataSet("a", images="/Bilder ü", labels="/l", names={"1": "organ"}),))
SENT = {
    "device": Device("cpu"),
    "prepare": Prepare(TASK, IMAGE),
    "preview": Preview(TASK, IMAGE, 3, "coronal"),
    "segment": Segment(TASK, FileRef("a#1.2", Kind.INTENSITY), box=((0, 0, 0), (3, 4, 5))),
    "batch": Batch(TASK, (CaseRef("a.nii.gz", "out/ä.seg.nrrd"),), looks=(Look(1, (1.0, 0.5, 0.0), "A:B|"),)),
    "correct": Correct(
        IMAGE,
        "coronal",
        4,
        PromptsRef(
            points=(((1.5, -2.0, 3.25), True), ((0.0, 0.0, 1.0), False)),
            boxes=(((0.0, 0.0, 0.0), (9.0, 9.0, 0.0)),),
            scribbles=(("1f.npy", (0, 4, 2), False),),
        ),
        TASK,
        label=2,
        previous="2e.npy",
    ),
    "neighbours": Neighbours(IMAGE, "axial", 7, radius=3, window=(0.0, 1.0)),
    "propagate": Propagate(IMAGE, "axial", TASK, start=(3, 9), slice_range=(0, 12), stop_below=0.7),
    "describe": Describe("images", "labels"),
    "survey": LookAtSite(SITE),
    "train": TrainOnSite(SITE, "/runs/Ä", {"size": 64, "training": {"steps": 3}}, "cpu"),
    "weights": Weights("default", "ensure"),
    "cancel": Cancel(4),
    "stop": Stop(),
}


@pytest.mark.parametrize("do", SENT)
def test_a_request_comes_out_as_it_went_in(do):
    line = encode_line({"id": 3, "do": do, "lane": "x", **to_mapping(SENT[do])})
    assert line.isascii()
    assert line.count("\n") == 1
    assert request_of(decode_line(line)) == SENT[do]


def test_an_affine_arrives_to_the_last_bit():
    back = from_mapping(ArrayRef, json.loads(json.dumps(to_mapping(IMAGE))), "ref")
    np.testing.assert_array_equal(np.array(back.affine), GEOMETRY.affine)


def test_equal_tasks_have_one_key_and_different_ones_do_not():
    assert TaskSpec.from_mapping(TASK.to_mapping()).key == TASK.key
    other = TASK.to_mapping() | {"window": None}
    assert TaskSpec.from_mapping(other).key != TASK.key


def test_paths_that_are_no_text_arrive_as_they_are():
    path = b"/d/\xff\xfe.nii".decode("utf-8", "surrogateescape")
    assert decode_line(encode_line({"id": 1, "path": path}))["path"] == path


def test_what_is_undefined_becomes_null():
    assert decode_line(encode_line({"id": 1, "spread": math.nan}))["spread"] is None


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "A line of JSON was expected, but '{' came"),
        ('"x"', "A JSON object was expected"),
        ("y" * 99, r"y\.\.\.'"),
    ],
)
def test_a_line_that_is_no_message_is_refused(line, complaint):
    with pytest.raises(InputError, match=complaint):
        decode_line(line)


def preview(**changes):
    return {"id": 1, "do": "preview", **to_mapping(SENT["preview"])} | changes


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ({"id": 1}, "There is no request None; choose one of device, prepare"),
        ({"do": "dance"}, "There is no request 'dance'"),
        (preview(index=1.5), "request preview: index: expected an integer, got the number 1.5"),
        (preview(colour=1), "request preview: colour: this key is unknown"),
        (preview(target={"name": "a.npy", "kind": "labels"}), "request preview: target.affine: this key is missing"),
        (preview(target={"path": "a", "kind": "shape"}), 'target.kind: expected "intensity" or "labels"'),
        (preview(target=3), "request preview: target: expected a table"),
        (preview(task=TASK.to_mapping() | {"settings": {"draws": 0}}), "task.settings: draws: asked for at least 1"),
        (preview(task=TASK.to_mapping() | {"labels": [[1]]}), r"task.labels\[0\]: expected a list of 2 values"),
        ({"do": "segment", **to_mapping(SENT["segment"]), "slice_range": [1, 2]}, "A box and a range of slices came"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_by_the_name_of_its_field(message, complaint):
    with pytest.raises(InputError, match=complaint):
        request_of(message)


def test_arrays_are_found_wherever_an_answer_mentions_them():
    answer = {"block": {"array": "a.npy", "corner_kji": [0, 0, 0]}, "cases": [{"array": "b.npy"}, {"array": 3}], "n": 1}
    assert arrays_of(answer) == ["a.npy", "b.npy"]


def test_the_panel_side_imports_without_anything_that_slicer_has_to_install():
    blocked = ("jaxtyping", "scipy", "PIL", "torch", "einops", "matplotlib", "tqdm", "safetensors")
    names = (
        "config",
        "errors",
        "memory",
        "progress",
        "inference.settings",
        "models.catalog",
        "slices.plan",
        "volumes.files",
        "volumes.geometry",
        "worker.client",
        "worker.protocol",
        "worker.shared_arrays",
        "worker.transport",
    )
    modules = ", ".join(f"InContextSegLib.{name}" for name in names)
    script = f"import sys; sys.modules.update(dict.fromkeys({blocked})); import {modules}"
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
