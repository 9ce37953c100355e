"""The list of examples lives in the scene: it survives saving, and nodes that go away."""

import pytest
import slicer

from InContextSegLib.errors import InputError
from InContextSegSlicer.panel.exampletable import labelText, parsedLabels, parsedSlices, sliceText
from InContextSegSlicer.panel.order import namesIn, wantedSegments
from InContextSegSlicer.scene.examples import ExampleList, ExampleRow


def nodes(scene, *names):
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Volume")
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
    for name in names:
        segmentation.GetSegmentation().AddEmptySegment("", name)
    return volume, segmentation


def emptyList(scene):
    return ExampleList(scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "Parameters"))


def test_a_row_comes_back_as_it_was_added(scene):
    volume, segmentation = nodes(scene)
    examples = emptyList(scene)
    added = examples.add(ExampleRow(volume=volume, segmentation=segmentation, slices=(4, 7), axis="coronal"))
    files = examples.add(ExampleRow(imagePath="a ü.nii.gz", labelsPath="b.nii.gz", names=((1, "liver"),)))
    assert examples.rows() == (added, files)
    assert (added.key, files.key) == ("Example1", "Example2")


def test_the_same_volume_and_segmentation_take_one_row_only(scene):
    volume, segmentation = nodes(scene)
    examples = emptyList(scene)
    examples.add(ExampleRow(volume=volume, segmentation=segmentation, slices=(4,), axis="axial"))
    examples.add(ExampleRow(volume=volume, segmentation=segmentation, slices=(4, 9), axis="axial"))
    assert [row.slices for row in examples.rows()] == [(4, 9)]


def test_a_new_row_takes_no_key_in_use(scene):
    examples = emptyList(scene)
    for path in "abc":
        examples.add(ExampleRow(imagePath=path, labelsPath=path))
    examples.remove(["Example2"])
    assert examples.add(ExampleRow(imagePath="d", labelsPath="d")).key == "Example4"


def test_a_row_whose_volume_was_deleted_is_kept_and_says_so(scene):
    volume, segmentation = nodes(scene, "liver")
    examples = emptyList(scene)
    examples.add(ExampleRow(volume=volume, segmentation=segmentation))
    scene.RemoveNode(volume)
    (row,) = examples.rows()
    assert not row.complete and namesIn(row) == ()


def test_rows_follow_a_scene_that_is_saved_and_read_again(scene, tmp_path):
    volume, segmentation = nodes(scene)
    node = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "Parameters")
    ExampleList(node).add(ExampleRow(volume=volume, segmentation=segmentation, slices="all", enabled=False))
    scene.SetSaveToXMLString(1)
    scene.Commit()
    text = scene.GetSceneXMLString()
    scene.Clear()
    scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Takes the old name of the volume's node")
    scene.SetLoadFromXMLString(1)
    scene.SetSceneXMLString(text)
    scene.Import()
    (row,) = ExampleList(slicer.util.getNode("Parameters")).rows()
    assert (row.volume.GetName(), row.segmentation.GetName()) == ("Volume", "Segmentation")
    assert (row.slices, row.enabled) == ("all", False)


def test_segments_are_those_of_all_examples_each_once_in_their_order(scene):
    one = ExampleRow("Example1", *nodes(scene, "liver", "spleen"))
    other = ExampleRow("Example2", *nodes(scene, "spleen", "kidney"))
    files = ExampleRow("Example3", imagePath="a", labelsPath="b", names=((3, "kidney"), (4, "label 4")))
    wanted = wantedSegments([one, other, files], {"spleen": {"enabled": False, "into": "Milz"}})
    assert [(each.name, each.into, each.enabled) for each in wanted] == [
        ("liver", "liver", True),
        ("spleen", "Milz", False),
        ("kidney", "kidney", True),
        ("label 4", "label 4", True),
    ]


@pytest.mark.parametrize(("text", "slices"), [(" Auto", "auto"), ("all", "all"), ("every 4", 4)])
def test_slices_can_be_typed(text, slices):
    assert parsedSlices(text) == slices
    assert sliceText(ExampleRow(slices=slices)) == text.strip().lower()


@pytest.mark.parametrize("text", ["", "some", "every 0", "3-5"])
def test_slices_that_make_no_sense_are_refused(text):
    with pytest.raises(InputError, match="'auto', 'labelled', 'all' or, as in 'every 4'"):
        parsedSlices(text)


def test_labels_of_a_file_can_be_typed():
    row = ExampleRow(imagePath="a", labelsPath="b", names=parsedLabels("1 left kidney, 12 liver"))
    assert row.names == ((1, "left kidney"), (12, "liver"))
    assert labelText(row) == "1 left kidney, 12 liver"


@pytest.mark.parametrize("text", ["", "liver", "1", "1 a, 1 b", "0 background"])
def test_labels_that_make_no_sense_are_refused(text):
    with pytest.raises(InputError, match="Labels are values with names, as in '1 liver, 2 spleen'"):
        parsedLabels(text)
