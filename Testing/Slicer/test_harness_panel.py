"""A module in the harness: its panel, its parameters, its files and its views."""

from pathlib import Path

import numpy as np
import pytest
import qt
import slicer
import slicer.packaging
import slicer.util
import vtk

from Testing.Slicer import harness
from Testing.Slicer.harness import app


@pytest.fixture(scope="session")
def tinyModule():
    """A panel that uses a bit of everything."""
    return app.load_module(Path(harness.__file__).parent / "tiny" / "Tiny.py")


@pytest.fixture
def panel(scene, tinyModule):
    return app.open_panel(tinyModule)


def volume(name="CT", shape=(4, 5, 6)):
    return slicer.util.addVolumeFromArray(np.zeros(shape, np.int16), name=name)


def messages(strictErrors):
    return [str(error) for error in strictErrors.take()]


# A module and its panel


def test_a_module_is_loaded_as_slicer_does(tinyModule):
    assert slicer.modules.tiny.title == "Tiny"
    assert slicer.modules.TinyInstance.started
    assert slicer.util.modulePath("Tiny").endswith("Tiny.py")
    assert app.load_module(slicer.modules.tiny.path) is tinyModule


def test_a_module_cannot_set_what_slicer_does_not_know(tinyModule):
    with pytest.raises(AttributeError):
        slicer.modules.tiny.colour = "red"


def test_the_panel_follows_the_parameter_node(panel):
    chosen = volume()
    panel.parameters.volume = chosen
    panel.parameters.threshold = 40.0
    panel.parameters.quick = False
    assert panel.ui.volumeBox.currentNode() is chosen
    assert panel.ui.thresholdSlider.value == 40
    assert not panel.ui.quickBox.checked


def test_the_parameter_node_follows_the_panel(panel):
    first, second = volume("first"), volume("second")
    panel.ui.volumeBox.setCurrentNode(second)
    panel.ui.nameEdit.text = "spleen"
    assert (panel.parameters.volume, panel.parameters.name) == (second, "spleen")
    slicer.mrmlScene.RemoveNode(second)
    assert panel.ui.volumeBox.currentNode() is not second
    assert first.GetID() in [node.GetID() for node in panel.ui.volumeBox.nodes()]


def test_a_button_of_the_panel_fails_aloud(panel, strictErrors):
    panel.ui.applyButton.click()
    panel.ui.nameEdit.text = "wrong"
    panel.ui.applyButton.click()
    assert panel.log == ["apply", "apply"]
    assert messages(strictErrors) == ["no such name"]


def test_the_panel_is_left_and_cleaned_up(panel):
    slicer.mrmlScene.Clear(0)
    app.close_panel(panel)
    assert panel.log == ["closed", "exit", "cleanup"]


def test_a_screenshot_shows_the_panel(panel, tmp_path):
    path = app.screenshot(panel, tmp_path / "shots" / "panel.png")
    image = qt.QImage(str(path))
    assert (image.width(), image.height()) == (420, 800)
    with pytest.raises(OSError, match="cannot be written"):
        app.screenshot(panel, tmp_path / "panel.nothing")


def test_a_collapsed_button_hides_its_contents(panel):
    assert panel.ui.moreButton.collapsed and not panel.ui.quickBox.visible
    panel.ui.moreButton.collapsed = False
    assert panel.ui.quickBox.visible


def test_the_self_test_of_a_module_runs(scene, tinyModule):
    slicer.modules.TinyInstance.runTest(msec=0)
    assert app.answers.texts("delayDisplay") == ["tested"]
    with pytest.raises(NotImplementedError, match="no runTest"):
        super(tinyModule.TinyTest, tinyModule.TinyTest()).runTest()


# Parameter nodes


def test_a_parameter_node_survives_a_saved_scene(scene, tinyModule, tmp_path):
    parameters = tinyModule.TinyLogic().getParameterNode()
    assert (parameters.threshold, parameters.count, parameters.name, parameters.quick) == (12.5, 3, "liver", True)
    parameters.volume = volume("kept")
    parameters.threshold, parameters.count, parameters.name, parameters.quick = 1.25, 8, "kidney ä", False
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(0)
    assert tinyModule.TinyLogic().getParameterNode().volume is None
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    read = tinyModule.TinyLogic().getParameterNode()
    assert (read.threshold, read.count, read.name, read.quick) == (1.25, 8, "kidney ä", False)
    assert read.volume.GetName() == "kept"
    assert read.segmentation is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("count", 1.5), ("count", None), ("name", 3), ("threshold", 101.0), ("volume", "vtkMRMLScalarVolumeNode1")],
)
def test_a_parameter_refuses_what_it_cannot_keep(scene, tinyModule, name, value):
    parameters = tinyModule.TinyLogic().getParameterNode()
    with pytest.raises((TypeError, ValueError)):
        setattr(parameters, name, value)
    with pytest.raises(ValueError, match="no parameter size"):
        parameters.getValue("size")


def test_one_undo_of_modify_sends_one_event(scene, tinyModule):
    parameters, events = tinyModule.TinyLogic().getParameterNode(), []
    parameters.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: events.append(event))
    with slicer.util.NodeModify(parameters):
        parameters.count = 5
        parameters.name = "x"
    assert len(events) == 1


# Packages, files, views


def test_packages_are_asked_for_and_never_installed(scene):
    slicer.packaging.missing.add("einops")
    app.answers.give("confirmOkCancelDisplay", True, False)
    slicer.packaging.pip_ensure("einops>=0.7 numpy", requester="InContextSeg")
    assert slicer.packaging.calls[0][:2] == ("pip_install", ["einops>=0.7"])
    assert slicer.packaging.pip_check("einops")
    slicer.packaging.missing.add("einops")
    with pytest.raises(RuntimeError, match="declined"):
        slicer.packaging.pip_ensure("einops")


def test_a_volume_and_a_segmentation_are_saved_and_loaded(scene, tmp_path):
    node = volume("CT")
    slicer.util.arrayFromVolume(node)[:] = np.arange(120).reshape(4, 5, 6)
    assert slicer.util.saveNode(node, str(tmp_path / "CT.nii.gz"))
    assert slicer.util.exportNode(node, str(tmp_path / "CT.nrrd"))
    for name in ("CT.nii.gz", "CT.nrrd"):
        loaded = slicer.util.loadVolume(str(tmp_path / name))
        assert np.array_equal(slicer.util.arrayFromVolume(loaded), slicer.util.arrayFromVolume(node))
    with pytest.raises(RuntimeError, match="Failed to load"):
        slicer.util.loadSegmentation(str(tmp_path / "CT.png"))


def test_the_views_of_the_layout_show_a_volume(scene):
    node = volume(shape=(20, 30, 40))
    slicer.util.arrayFromVolume(node)[:, 10:20, 10:30] = 1000
    node.GetDisplayNode().AutoWindowLevelOff()
    node.GetDisplayNode().SetWindowLevel(1000, 500)
    red = slicer.app.layoutManager().sliceWidget("Red")
    red.showVolume(node)
    assert red.image().max() > 200
    assert slicer.app.layoutManager().sliceWidget("Mauve") is None
    assert [logic.GetSliceNode().GetName() for logic in slicer.app.layoutManager().mrmlSliceLogics()] == ["Red"]


def test_a_view_of_its_own_shows_where_a_point_is(sliceView):
    view = sliceView("Check", "Coronal", (200, 100))
    view.showVolume(volume(shape=(20, 30, 40)))
    assert view.image().shape == (100, 200, 3)
    ras = view.mrmlSliceNode().GetXYToRAS().MultiplyPoint((50, 25, 0, 1))[:3]
    assert np.allclose(view.xyOfRas(ras), (50, 25))
