"""The training module: what a person sees and does, in terms of the training's controller."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ctk
import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from InContextSegLib.errors import InputError
from InContextSegLib.models.catalog import list_entries
from InContextSegLib.training import runfolder
from InContextSegLib.training.site.datasets import DataSet, read_site
from InContextSegLib.training.site.file import write_site
from InContextSegLib.worker.site_requests import TrainOnSite
from InContextSegSlicer.install.environment import SlicerEnvironment
from InContextSegSlicer.install.install import Installer
from InContextSegSlicer.panel.keeping import foldersOf
from InContextSegSlicer.training import recipe, status
from InContextSegSlicer.training import scene as trainingscene
from InContextSegSlicer.training.controller import (
    ACTIVE,
    DONE,
    IDLE,
    TRAINING,
    WAITING,
    TrainingController,
    keyOf,
)
from InContextSegSlicer.training.datasets import DataSetTable
from InContextSegSlicer.training.findings import ExamplesPicture, Findings, summaryOf
from InContextSegSlicer.training.plots import TrainingPlots
from InContextSegSlicer.widgets.filedrop import FileDrop
from InContextSegSlicer.widgets.items import barText, choose
from InContextSegSlicer.worker.shared import SharedWorker

# By the combo box: the parameter, and its values with their words.
CHOICES = {
    "trainingModelBox": ("model", recipe.modelChoices),
    "trainingWeakBox": ("weak", recipe.weakChoices),
    "trainingLossBox": ("loss", recipe.lossChoices),
    "trainingBalanceBox": ("balance", recipe.balanceChoices),
}
ADDING = ("AddFolder", "AddTable", "AddScene", "Remove", "Read", "Open")
RECIPE = (
    "ModelBox", "WeakBox", "SizeBox", "StepsBox", "NameEdit", "FolderEdit", "DeviceBox", "ShareBox", "SplitBox",
    "SeedBox", "ReferencesBox", "QueriesBox", "RateBox", "LossBox", "BalanceBox", "ValidateBox", "PatienceBox",
    "MemoryBox",
)  # fmt: skip


def assembleTraining(ui) -> "TrainingPanel":
    """The panel over the widgets `ui`, for the scene of the application."""
    worker = SharedWorker.join()
    controller = TrainingController(worker.client, worker.handover, TrainingPlots(slicer.mrmlScene))
    controller.release = worker.leave
    return TrainingPanel(ui, controller, Installer(SlicerEnvironment(), slicer.app.userSettings()))


class TrainingPanel:
    """Connects the widgets with the parameter node and the controller.

    Args:
        ui: the widgets by their names in the `.ui` file.
        controller: does the work.
        installer: knows what is missing.
    """

    def __init__(
        self, ui, controller: TrainingController, installer: Installer, clock: Callable[[], float] = time.monotonic
    ):
        self.ui, self.controller, self.installer, self._clock = ui, controller, installer, clock
        self.parameters = None
        self._sentence, self._key, self._sets = "", "", ()
        self.table = DataSetTable(ui.trainingSetsTable, self._chooseSets, self.say)
        self.findings = Findings(ui.trainingTasksTable, ui.trainingProblemsList)
        self.picture = ExamplesPicture(ui.trainingExamplesLabel)
        for box in CHOICES:
            self._fill(box)
        ui.trainingFolderEdit.filters = ctk.ctkPathLineEdit.Dirs
        self._showDevices({"devices": [{"name": "cpu", "title": _("Processor (CPU)")}]})
        controller.changed = self.hear
        self._connect()

    # The scene

    def setParameterNode(self, parameters) -> None:
        """Show another scene's choices; None: of a scene that is being closed."""
        self.parameters = parameters
        if parameters is None:
            return
        controller = self.controller
        if controller.state in ACTIVE and controller.request is not None:
            request = controller.request  # a run goes on, whatever becomes of the scene
            recipe.takeOver(parameters, request.site, request.settings)
            parameters.folder, parameters.device, parameters.name = request.run, request.device, request.name
        unknown = []
        for name, items in CHOICES.values():
            if getattr(parameters, name) not in [value for value, _text in items()]:
                unknown.append(f"{name} '{getattr(parameters, name)}'")
                setattr(parameters, name, parameters.default(name).value)
        folder = Path(parameters.folder) if parameters.folder else None
        if not controller.busy and folder != controller.folder and folder is not None and runfolder.is_run(folder):
            self._tried(lambda: controller.open(folder))
        self.modified()
        if unknown:
            text = _("The scene asks for {what}, which is not known here; the usual choice took its place.")
            self.say(text.format(what=", ".join(unknown)))

    def modified(self) -> None:
        """A choice changed."""
        self._sentence, self._sets, self._key = "", (), ""
        if self.parameters is not None:
            self._tried(self._readSets)
        folder = Path(self.parameters.folder) if self.parameters is not None and self.parameters.folder else None
        if not self.controller.busy and folder != self.controller.folder:
            self.controller.leave()
            if folder is not None and runfolder.is_run(folder):
                self._sentence = _("A training was begun in this folder; 'Open a run…' shows it and how it was begun.")
        self.refresh()

    def _readSets(self) -> None:
        self._sets = recipe.setsOf(self.parameters)
        self._key = keyOf(recipe.siteOf(self.parameters)) if self._sets else ""

    def hear(self) -> None:
        """The controller has news, which count for more than what was said before."""
        self._sentence = ""
        if self.controller.state == DONE:
            self._fill("trainingModelBox")  # what came of it can be trained further
        self.refresh()

    def say(self, sentence: str) -> None:
        """Show a sentence until the next choice, or until the controller has news."""
        self._sentence = sentence
        self.refresh()

    @property
    def ready(self) -> bool:
        """Whether everything that computing needs is installed."""
        return self.installer.state == "complete"

    def enter(self) -> None:
        """The module is shown."""
        self.installer.look()
        self._fill("trainingModelBox")  # a model may have come or gone
        self.refresh()
        if self.ready and not self.controller.busy:
            try:
                self.controller.client.ask("device", {}, on_done=self._showDevices)
            except OSError as error:  # no folder can be made for the worker
                self.say(str(error))

    def close(self) -> None:
        """End the worker, unless somebody else needs it; the panel is going away."""
        self.controller.close()

    @property
    def found(self) -> Mapping | None:
        """What was found in the present data sets, divided as they are to be; None where nobody has looked."""
        return self.controller.found if self._key and self.controller.foundFor == self._key else None

    # What is shown

    def refresh(self) -> None:
        """Show how things are."""
        if self.parameters is None:
            return
        ui, controller, found = self.ui, self.controller, self.found
        free = not controller.busy
        ui.trainingInstallFrame.setVisible(not self.ready)
        self.table.show(self._sets, found, free)
        dice = {name: each["dice"] for name, each in controller.record["dice"].items()} if controller.record else {}
        self.findings.show(found, {**controller.dice, **{k: v for k, v in dice.items() if v is not None}})
        ui.trainingFoundLabel.setText(summaryOf(found) if found else _("Nobody has looked at these data sets yet."))
        for name in ADDING:
            getattr(ui, f"training{name}Button").setEnabled(free and (name != "AddScene" or self.ready))
        for name in RECIPE:
            getattr(ui, f"training{name}").setEnabled(free)
        ui.trainingWeakBox.setEnabled(free and recipe.isSricl(self.parameters.model))
        ui.trainingSaveButton.setEnabled(bool(self._sets))
        ui.trainingLookButton.setEnabled(free and self.ready and bool(self._sets))
        usable = found is not None and found.get("usable", True)
        # A finished run goes on only where more is wanted of it, or a model that it has not become.
        over = controller.state == DONE and status.isOver(controller.record, self.parameters)
        over = over and (self._entry() is not None or not self.parameters.name.strip())
        ui.trainingStartButton.setEnabled(free and self.ready and usable and not over)
        ui.trainingStartButton.setText(_("Resume") if controller.resumable else _("Start"))
        ui.trainingPauseButton.setEnabled(controller.state in (WAITING, TRAINING))
        ui.trainingCancelButton.setEnabled(controller.busy or controller.deletable)
        ui.trainingPlotsButton.setEnabled(controller.plots.chart is not None)
        ui.trainingUseButton.setEnabled(controller.state == DONE and self._entry() is not None)
        self._showChoices()
        self._showProgress()
        self.picture.show(controller.folder, controller.pictured)
        advice = status.overText(controller.record) if over else ""
        if controller.state == IDLE and self.ready:
            advice = status.nextText(self._sets, found, self.parameters)
        ui.trainingStatusLabel.setText(self._sentence or status.statusText(controller, advice))

    def _fill(self, name: str) -> None:
        box, (parameter, items) = getattr(self.ui, name), CHOICES[name]
        wasBlocked = box.blockSignals(True)
        box.clear()
        for value, text in items():
            box.addItem(text, value)
        if self.parameters is not None:
            choose(box, getattr(self.parameters, parameter))
        box.blockSignals(wasBlocked)

    def _showChoices(self) -> None:
        for box, (name, _items) in CHOICES.items():
            choose(getattr(self.ui, box), getattr(self.parameters, name))
        choose(self.ui.trainingDeviceBox, self.parameters.device)
        edit = self.ui.trainingFolderEdit
        if edit.currentPath != self.parameters.folder:
            wasBlocked = edit.blockSignals(True)
            edit.setCurrentPath(self.parameters.folder)
            edit.blockSignals(wasBlocked)

    def _showProgress(self) -> None:
        controller, bar = self.controller, self.ui.trainingProgressBar
        bar.setVisible(controller.busy)
        if controller.busy:
            bar.setRange(0, controller.of)
            bar.setValue(controller.done)
            bar.setFormat(barText(status.progressText(controller)))

    def _showDevices(self, answer: Mapping) -> None:
        if self.controller.closed:
            return
        box = self.ui.trainingDeviceBox
        wasBlocked = box.blockSignals(True)
        box.clear()
        box.addItem(_("Automatic"), "auto")
        for device in answer["devices"]:
            box.addItem(device["title"], device["name"])
        choose(box, self.parameters.device if self.parameters is not None else "auto")
        box.blockSignals(wasBlocked)

    # What a person does

    def _connect(self) -> None:
        ui = self.ui
        for name in (*ADDING, "Save", "Look", "Start", "Pause", "Cancel", "Plots", "Use", "Install"):
            getattr(ui, f"training{name}Button").connect("clicked()", getattr(self, f"on{name}"))
        for box, (name, _items) in CHOICES.items():
            getattr(ui, box).connect(
                "currentIndexChanged(int)",
                lambda index, box=box, name=name: self._set(name, getattr(ui, box).itemData(index)),
            )
        ui.trainingDeviceBox.connect(
            "currentIndexChanged(int)", lambda index: self._set("device", ui.trainingDeviceBox.itemData(index))
        )
        ui.trainingFolderEdit.connect("currentPathChanged(QString)", lambda path: self._set("folder", path))
        self._drop = FileDrop(ui.trainingSetsTable.viewport(), self._dropped)

    def onAddFolder(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(self._window, _("Folder of images, or with images and labels"))
        if folder:
            self._addFolder(folder)

    def onAddTable(self) -> None:
        path = qt.QFileDialog.getOpenFileName(self._window, _("Table of images and labels"), "", _("Tables (*.csv)"))
        if path:
            self._add(table=path, name=Path(path).stem)

    def onAddScene(self) -> None:
        folder = self._folder()
        if folder is None:
            return
        pairs, left = trainingscene.pairsIn(slicer.mrmlScene)
        into = trainingscene.newFolder(folder)

        def written(folder: str) -> None:
            images, labels = foldersOf(folder)
            self._add(name=_("scene"), images=images, labels=labels)
            text = _("{count} volumes of the scene were written to {folder}.").format(count=len(pairs), folder=folder)
            if left:
                names = ", ".join(left)
                text += " " + _("Left out, as they are empty or have no volume of their own: {names}.").format(
                    names=names
                )
            self.say(text)

        self.controller.write(trainingscene.writing(pairs, into, self.controller.handover), written)

    def onRemove(self) -> None:
        gone = self.table.selected()
        self._chooseSets([each for place, each in enumerate(self._sets) if place not in gone])

    def onRead(self) -> None:
        path = qt.QFileDialog.getOpenFileName(self._window, _("List of data sets"), "", _("Data sets (*.toml)"))
        if path:
            self._tried(lambda: recipe.takeOver(self.parameters, read_site(path), {}))

    def onSave(self) -> None:
        path = qt.QFileDialog.getSaveFileName(
            self._window, _("List of data sets"), "site.toml", _("Data sets (*.toml)")
        )
        if path and self._tried(lambda: write_site(path, recipe.siteOf(self.parameters))):
            self.say(_("Saved as {path}; the command line takes it as well.").format(path=path))

    def onOpen(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(self._window, _("Folder of a run"))
        if not folder:
            return
        if not runfolder.is_run(Path(folder)):
            self.say(_("No training was begun in {folder}; choose the folder of a run.").format(folder=folder))
            return

        def opening() -> None:
            site = read_site(Path(folder) / runfolder.SITE)
            settings = runfolder.kept_settings(Path(folder))
            with slicer.util.NodeModify(self.parameters.parameterNode):
                recipe.takeOver(self.parameters, site, settings)
                self.parameters.folder = folder
            self.controller.open(Path(folder))

        self._tried(opening)

    def onLook(self) -> None:
        self._tried(lambda: self.controller.look(recipe.siteOf(self.parameters)))

    def onStart(self) -> None:
        folder = self._folder()
        if folder is None:
            return
        if self.found is None:
            self.say(_("Look at the data first: they have changed since, or nobody has looked yet."))
            return
        self.ui.trainingFolderEdit.addCurrentPathToHistory()
        chosen = self.parameters

        def starting() -> None:
            site, settings = recipe.siteOf(chosen), recipe.settingsOf(chosen)
            self.controller.start(TrainOnSite(site, str(folder), settings, chosen.device, chosen.name.strip()))

        self._tried(starting)

    def onPause(self) -> None:
        self.controller.pause()

    def onCancel(self) -> None:
        """Ask what becomes of what the run wrote, if it wrote something."""
        controller = self.controller
        if not controller.deletable:
            controller.cancel(delete=False)
            return
        box = qt.QMessageBox
        answer = box.question(
            self._window,
            _("Cancel the training"),
            _(
                "Save keeps what the run has written in {folder}, so that it can be resumed. Discard deletes it; "
                "images and labels stay. Cancel changes nothing."
            ).format(folder=controller.folder),
            box.Save | box.Discard | box.Cancel,
            box.Cancel,
        )
        if answer == box.Discard:
            controller.cancel(delete=True)
        elif answer == box.Save:
            controller.cancel(delete=False)

    def onPlots(self) -> None:
        self.controller.plots.show(change=True)

    def onUse(self) -> None:
        """Choose the model in the panel, and go there."""
        from InContextSegSlicer.panel.parameters import InContextSegParameterNode, parameterNode  # noqa: PLC0415

        InContextSegParameterNode(parameterNode(slicer.mrmlScene)).model = self._entry()
        slicer.util.selectModule("InContextSeg")

    def onInstall(self) -> None:
        slicer.util.selectModule("InContextSeg")

    # Small things

    @property
    def _window(self) -> qt.QWidget:
        return self.ui.trainingSetsTable.window()

    def _folder(self) -> Path | None:
        """The folder of the run; says so where none is chosen."""
        text = self.parameters.folder.strip()
        if not text or not Path(text).is_absolute():
            self.say(_("Choose a folder for the run."))
            return None
        return Path(text)

    def _entry(self) -> str | None:
        """The entry of the catalogue that holds the weights of the run."""
        record = self.controller.record
        wanted = record.get("weights_sha256") if record else None
        names = [entry.name for entry in list_entries() if wanted and entry.weights.sha256 == wanted]
        just = record["model"]["name"] if record and "model" in record else None  # the same run may have several names
        return just if just in names else next(iter(names), None)

    def _dropped(self, paths: Sequence[str]) -> None:
        for path in paths:
            if Path(path).is_dir():
                self._addFolder(path)
            elif path.lower().endswith(".csv"):
                self._add(table=path, name=Path(path).stem)
            else:
                self.say(_("{path} is neither a folder nor a table (.csv).").format(path=path))

    def _addFolder(self, folder: str) -> None:
        pair = foldersOf(folder)
        if pair is None:
            labels = qt.QFileDialog.getExistingDirectory(self._window, _("Folder of their labels"))
            pair = (folder, labels)
        if pair[1]:
            self._add(name=recipe.nameOfFolder(folder), images=pair[0], labels=pair[1])

    def _add(self, name: str, **keys: str) -> None:
        self._tried(lambda: self._chooseSets([*self._sets, DataSet(recipe.unique(name, self._sets), **keys)]))

    def _chooseSets(self, sets: Sequence[DataSet]) -> None:
        said = self._sentence
        self._set("datasets", recipe.textOfSets(sets))
        self.modified()
        if said:
            self.say(said)

    def _set(self, name: str, value) -> None:
        if self.parameters is not None and value is not None and getattr(self.parameters, name) != value:
            setattr(self.parameters, name, value)

    def _tried(self, action: Callable[[], object]) -> bool:
        """Whether an action went well; says what was wrong otherwise."""
        try:
            action()
            return True
        except (InputError, OSError, json.JSONDecodeError) as error:
            self.say(str(error))
            return False
