"""What a person does in the scene while the effect awaits something, or has answers from before."""

import pytest
import qt
from PySide6.QtTest import QTest

from InContextSegSlicer.scene import bridge
from Testing.Slicer.corrector import Corrector
from Testing.Slicer.effect.test_effect import volumeOf
from Testing.Slicer.harness import app
from Testing.Slicer.patients import somewhere


@pytest.fixture
def corrector(scene, monkeypatch):
    return Corrector(monkeypatch, *volumeOf(scene))


def test_an_answer_comes_though_somebody_looked_elsewhere_meanwhile(corrector):
    corrector.look("Red", 8)
    corrector.click((8, 12, 6))
    corrector.settle()
    corrector.worker.hold = True
    corrector.click((8, 12, 20))
    for index in (9, 8):
        app.pump(0.2)
        corrector.look("Red", index)
    app.pump(0.2)
    corrector.worker.hold = False
    corrector.settle()
    assert corrector.shown()[8, 12, 20]


def test_a_segment_does_not_inherit_the_marks_of_a_removed_one_with_its_id(corrector):
    corrector.look("Red", 8)
    corrector.click((8, 12, 12))
    corrector.settle()
    every = corrector.segmentation.GetSegmentation()
    every.RemoveSegment("organ")
    corrector.choose("neighbour")
    every.AddEmptySegment("organ", "another organ")
    corrector.choose("organ")
    corrector.settle()
    assert corrector.correction.place.segment == "organ"
    assert not corrector.correction.marks and not corrector.shown().any()


@pytest.mark.parametrize("when", ["at once", "asked", "saving"])
@pytest.mark.parametrize("what", ["segment", "segmentation", "volume", "scene"])
def test_what_is_removed_while_an_answer_is_awaited_is_awaited_no_more(
    corrector, scene, tmp_path, strictErrors, what, when
):
    corrector.look("Red", 8)
    corrector.click((8, 12, 12))
    corrector.applied()
    corrector.look("Red", 9)
    corrector.settle()
    corrector.worker.hold = when == "asked"
    if when == "saving":
        corrector.correction.saveExamples(str(tmp_path))
    else:
        corrector.click((9, 12, 12))
    if when == "asked":
        app.pump(0.2)
    if what == "segment":
        corrector.segmentation.GetSegmentation().RemoveSegment("organ")
    elif what == "scene":
        scene.Clear(False)
    else:
        scene.RemoveNode(getattr(corrector, what))
    corrector.effect.refresh()
    corrector.worker.hold = False
    corrector.settle()
    assert corrector.correction.place is None and corrector.correction.preview.node is None
    assert "object" not in corrector.correction.message
    assert not strictErrors.seen, strictErrors.report()


def test_examples_are_handed_over_anew_where_their_volume_was_moved_by_its_origin(corrector):
    corrector.look("Red", 8)
    corrector.click((8, 12, 12))
    corrector.applied()
    corrector.look("Red", 9)
    corrector.settle()
    x, y, z = corrector.volume.GetOrigin()
    corrector.volume.SetOrigin(x + 5, y, z)
    corrector.click((9, 12, 12))
    corrector.settle()
    asked = corrector.worker.corrected[-1]
    (example,) = asked["task"]["examples"]
    assert example["image"]["affine"] == example["labels"]["affine"] == asked["target"]["affine"]


@pytest.mark.parametrize("field", ["QLineEdit", "QSpinBox"])
def test_enter_in_a_field_is_left_to_the_field(corrector, field):
    corrector.look("Red", 8)
    corrector.click((8, 12, 12))
    corrector.settle()
    window = corrector.effect.scriptedEffect.optionsFrame().window()
    written = getattr(qt, field)(window)
    window.show()
    window.activateWindow()
    written.setFocus()
    app.pump(0.3)
    QTest.keyClick(written, qt.Qt.Key_Return)
    assert not corrector.drawn().any()
    written.clearFocus()
    app.pump(0.3)
    QTest.keyClick(window, qt.Qt.Key_Return)
    assert corrector.drawn().any()


@pytest.mark.parametrize("what", ["moved", "filtered"])
def test_what_was_answered_for_a_volume_as_it_was_is_asked_anew(corrector, scene, what):
    corrector.look("Red", 8)
    corrector.click((8, 12, 12))
    corrector.settle()
    if what == "moved":
        for node in (corrector.volume, corrector.segmentation):
            node.SetAndObserveTransformNodeID(somewhere(scene, "moved").GetID())
        corrector.look("Red", 8)
    else:
        bridge.arrayOf(corrector.volume)[:] += 5
        corrector.volume.GetImageData().Modified()
    app.pump(0.3)
    corrector.settle()
    first, again = corrector.worker.corrected
    assert again["previous"] is None and again["target"] != first["target"]


def test_a_slice_that_does_not_teach_as_its_examples_are_off_says_so(corrector):
    corrector.look("Red", 8)
    corrector.click((8, 12, 12))
    corrector.applied()
    assert corrector.correction.message == ""
    examples = corrector.correction.context.examples
    examples.change(examples.rows()[0].key, enabled=False)
    corrector.look("Red", 10)
    corrector.click((10, 12, 12))
    corrector.applied()
    assert "the examples of this volume are off" in corrector.correction.message


def test_who_waits_for_long_is_told_for_what_and_no_more_when_the_answer_is_there(corrector):
    corrector.look("Red", 8)
    corrector.click((8, 12, 12))
    corrector.settle()
    corrector.worker.hold = True
    corrector.click((8, 12, 20))
    app.pump(0.3)
    assert corrector.options.status.text == ""
    assert app.pump(3, until=lambda: "such as a batch of the module, comes first" in corrector.options.status.text)
    corrector.correction.client.state = "starting"
    corrector.effect.refresh()
    assert app.pump(3, until=lambda: "The worker is starting" in corrector.options.status.text)
    corrector.correction.client.state = "ready"
    corrector.worker.hold = False
    corrector.settle()
    assert corrector.options.status.text == ""
