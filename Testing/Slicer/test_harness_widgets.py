"""The stand-ins for widgets of CTK and qMRML behave as the panel needs them."""

import ctk
import pytest
import qt
import slicer

from Testing.Slicer.harness import app

UI = """<ui version="4.0"><class>Form</class><widget class="QWidget" name="Form">{}</widget>{}</ui>"""


def recorded(signal):
    values = []
    signal.connect(lambda *new: values.append(new))
    return values


@pytest.fixture
def segmentation(scene):
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Organs")
    for name in ("liver", "spleen"):
        node.GetSegmentation().AddEmptySegment(name, name)
    return node


def loaded(tmp_path, inside="", after=""):
    (tmp_path / "form.ui").write_text(UI.format(inside, after), encoding="utf-8")
    return slicer.util.loadUI(str(tmp_path / "form.ui"))


def test_a_slider_and_its_number_follow_each_other():
    slider = ctk.ctkSliderWidget()
    slider.setRange(0, 10)
    values = recorded(slider.valueChanged)
    slider.value = 4
    slider.findChild(qt.QSlider).value = 1000
    assert values == [(4.0,), (10.0,)]
    assert slider.findChild(qt.QDoubleSpinBox).value == slider.value == 10


def test_a_range_never_turns_round():
    span = ctk.ctkRangeWidget()
    span.minimum, span.maximum = -100, 400
    span.setValues(0, 300)
    values = recorded(span.valuesChanged)
    span.minimumValue = 350
    assert (span.minimumValue, span.maximumValue) == (350, 350)
    assert values[-1] == (350, 350)
    span.maximumValue = 500
    assert span.maximumValue == 400


def test_a_path_can_be_typed():
    line = ctk.ctkPathLineEdit()
    paths = recorded(line.currentPathChanged)
    line.filters = ctk.ctkPathLineEdit.Dirs
    line.currentPath = "/data"
    assert (line.currentPath, line.filters, paths) == ("/data", 1, [("/data",)])


def test_a_combo_box_keeps_its_manners():
    box = ctk.ctkComboBox()
    box.scrollWheelEffect = ctk.ctkComboBox.NeverScroll
    box.addItem("one", 1)
    assert (box.count, box.currentData, box.scrollWheelEffect) == (1, 1, 0)


def test_a_collapsed_part_opens_with_a_click_and_what_was_hidden_stays_hidden():
    part = ctk.ctkCollapsibleButton("Advanced")
    layout = qt.QVBoxLayout(part)
    shown, hidden = qt.QLabel("a"), qt.QLabel("b")
    layout.addWidget(shown)
    layout.addWidget(hidden)
    hidden.hide()
    states = recorded(part.contentsCollapsed)
    part.show()
    part.collapsed = True
    part.click()
    assert states == [(True,), (False,)]
    assert shown.visible and not hidden.visible
    assert (part.text, part.checked) == ("Advanced", True)


def test_nodes_are_chosen_made_and_filtered(scene):
    box = slicer.qMRMLNodeComboBox()
    box.nodeTypes = ["vtkMRMLVolumeNode"]
    box.hideChildNodeTypes = ["vtkMRMLLabelMapVolumeNode"]
    box.setMRMLScene(scene)
    chosen = recorded(box.currentNodeChanged)
    first = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "first")
    scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    assert (box.nodeCount(), chosen) == (1, [(first,)])
    box.noneEnabled = True
    box.setCurrentNode(None)
    assert box.currentNode() is None
    made = box.addNode("vtkMRMLScalarVolumeNode")
    assert box.currentNode() is made
    scene.Clear(0)
    assert (box.nodeCount(), box.currentNodeID) == (0, "")


def test_nodes_are_filtered_by_their_attributes(scene):
    box = slicer.qMRMLNodeComboBox()
    box.nodeTypes = ["vtkMRMLTextNode"]
    box.addAttribute("vtkMRMLTextNode", "Category", "note")
    box.setMRMLScene(scene)
    scene.AddNewNodeByClass("vtkMRMLTextNode", "other")
    assert box.nodeCount() == 0
    assert box.addNode().GetAttribute("Category") == "note"
    box.removeAttribute("vtkMRMLTextNode", "Category")
    assert box.nodeCount() == 2


def test_a_deleted_box_no_longer_watches_the_scene(scene):
    before = scene.HasObserver(scene.NodeAddedEvent)
    box = slicer.qMRMLNodeComboBox()
    box.nodeTypes = ["vtkMRMLTextNode"]
    box.setMRMLScene(scene)
    box.delete()
    scene.AddNewNodeByClass("vtkMRMLTextNode", "after")
    assert scene.HasObserver(scene.NodeAddedEvent) == before


def test_the_table_of_segments_follows_the_segmentation(segmentation):
    table = slicer.qMRMLSegmentsTableView()
    table.setSegmentationNode(segmentation)
    table.selectionMode = qt.QAbstractItemView.MultiSelection.value
    changes = recorded(table.selectionChanged)
    table.setSelectedSegmentIDs(["spleen"])
    segmentation.GetSegmentation().AddEmptySegment("tumour", "tumour")
    assert table.segmentCount == 3
    assert list(table.selectedSegmentIDs()) == ["spleen"]
    assert changes
    table.clearSelection()
    assert list(table.selectedSegmentIDs()) == []


def test_a_segment_is_chosen(segmentation):
    box = slicer.qMRMLSegmentSelectorWidget()
    box.setMRMLScene(slicer.mrmlScene)
    assert (box.currentNode(), box.currentSegmentID()) == (segmentation, "liver")
    chosen = recorded(box.currentSegmentChanged)
    box.setCurrentSegmentID("spleen")
    segmentation.GetSegmentation().RemoveSegment("spleen")
    assert chosen == [("spleen",), ("liver",)]


def test_drop_targets_can_be_tables(tmp_path):
    class Watcher(qt.QObject):
        paths = ()

        def eventFilter(self, target, event):
            if event.type() in (qt.QEvent.DragEnter, qt.QEvent.Drop):
                event.acceptProposedAction()
            if event.type() == qt.QEvent.Drop:
                self.paths = [url.toLocalFile() for url in event.mimeData().urls()]
                return True
            return event.type() == qt.QEvent.DragEnter

    table, watcher = qt.QTableWidget(2, 2), Watcher()
    table.viewport().acceptDrops = True
    table.viewport().installEventFilter(watcher)
    assert app.drop(table.viewport(), tmp_path)
    assert watcher.paths == [str(tmp_path)]


def test_a_ui_file_with_an_unknown_class_is_refused(tmp_path):
    inside = '<layout class="QVBoxLayout" name="l"><item><widget class="qMRMLNothing" name="n"/></item></layout>'
    with pytest.raises(LookupError, match="no widget class qMRMLNothing"):
        loaded(tmp_path, inside)


def test_a_ui_file_with_a_connection_to_nowhere_is_refused(tmp_path):
    ends = "<sender>Form</sender><signal>destroyed()</signal><receiver>gone</receiver><slot>close()</slot>"
    with pytest.raises(LookupError, match="names gone"):
        loaded(tmp_path, "", f"<connections><connection>{ends}</connection></connections>")
