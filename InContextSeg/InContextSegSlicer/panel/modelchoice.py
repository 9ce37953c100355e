"""The choice of the network and of the device it computes on."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from InContextSegLib.models.catalog import cache_folder, list_entries
from InContextSegLib.models.entry import CatalogEntry
from InContextSegSlicer.panel.controller import Controller

MEGABYTE = 1e6
USUAL = "default"


class ModelChoice:
    """Shows the models of the catalogue with licence and size, the user's own as they are now.

    Weights are fetched and removed on request only, and a model of the user's own not without a question.

    Args:
        ui: with `modelBox`, `modelText`, `modelButton` and `deviceBox`.
        choose: called with the name of a parameter and its new value.
    """

    def __init__(self, ui, controller: Controller, choose: Callable[[str, str], None]):
        self._ui, self._controller, self._choose = ui, controller, choose
        self._entries: dict[str, CatalogEntry] = {}
        self._list()
        self._devices: tuple = ()
        self.showDevices(())
        ui.modelBox.connect("currentIndexChanged(int)", lambda index: choose("model", ui.modelBox.itemData(index)))
        ui.deviceBox.connect("currentIndexChanged(int)", lambda index: choose("device", ui.deviceBox.itemData(index)))
        ui.modelButton.connect("clicked()", self._fetchOrRemove)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the models that there are now."""
        self._list()
        return tuple(self._entries)

    def show(self, model: str, device: str) -> None:
        """Show what is chosen, of the models that there are now."""
        self._list()
        for box, value in ((self._ui.modelBox, model), (self._ui.deviceBox, device)):
            index = box.findData(value)
            if index != box.currentIndex:
                wasBlocked = box.blockSignals(True)
                box.setCurrentIndex(index)
                box.blockSignals(wasBlocked)
        entry = self._entries.get(model)
        self._ui.modelText.setText(aboutModel(entry) if entry is not None else missing(model))
        self._ui.modelButton.setVisible(entry is not None and not entry.weights.embedded)
        if entry is not None:
            self._ui.modelButton.setText(_wordOn(entry))

    def showDevices(self, devices: Sequence[Mapping]) -> None:
        """Offer the devices that the worker found; before it has looked, only automatic and the processor."""
        box = self._ui.deviceBox
        chosen = box.itemData(box.currentIndex)
        wasBlocked = box.blockSignals(True)
        box.clear()
        box.addItem(_("Automatic"), "auto")
        for device in devices or ({"name": "cpu", "title": _("Processor (CPU)")},):
            box.addItem(device["title"], device["name"])
        box.setCurrentIndex(max(box.findData(chosen), 0))
        box.blockSignals(wasBlocked)

    def _list(self) -> None:
        """Take over what there is now: a training may have ended, or a model have been removed elsewhere."""
        entries = {entry.name: entry for entry in list_entries()}
        if entries == self._entries:
            return
        box, others = self._ui.modelBox, tuple(entries) != tuple(self._entries)
        self._entries = entries
        if others:
            chosen = box.itemData(box.currentIndex)
            wasBlocked = box.blockSignals(True)
            box.clear()
            for name in entries:
                box.addItem(name, name)
            box.setCurrentIndex(box.findData(chosen))
            box.blockSignals(wasBlocked)

    def _fetchOrRemove(self) -> None:
        entry = self._entries.get(self._ui.modelBox.itemData(self._ui.modelBox.currentIndex))
        if entry is None or (entry.weights.own and not slicer.util.confirmOkCancelDisplay(_questionOf(entry))):
            return
        action = "remove" if isHere(entry) else "ensure"
        message = _("Removing the model") if action == "remove" else _("Downloading the weights")
        payload = {"name": entry.name, "action": action}
        self._controller.ask("weights", payload, lambda _answer: self._removed(entry, action), message)

    def _removed(self, entry: CatalogEntry, action: str) -> None:
        """What is no longer there cannot stay chosen."""
        if entry.weights.own and action == "remove":
            self._choose("model", USUAL)


def isHere(entry: CatalogEntry) -> bool:
    """Whether the weights are on this computer."""
    weights = entry.weights
    return weights.embedded or weights.own or (cache_folder() / weights.filename).is_file()


def aboutModel(entry: CatalogEntry) -> str:
    """What a person should know before choosing or fetching a model."""
    size = f", {entry.weights.size_bytes / MEGABYTE:.1f} MB" if entry.weights.size_bytes else ""
    where = _("comes with the extension") if entry.weights.embedded else _("is fetched when you ask for it")
    if entry.weights.own:
        where = _("kept in {folder}").format(folder=Path(entry.weights.path).parent)
    return _("{description} Licence: {licence}{size}; {where}.").format(
        description=entry.description, licence=entry.licence, size=size, where=where
    )


def missing(model: str) -> str:
    """What to do where a chosen model is gone."""
    return _("The model '{model}' is not on this computer any more; choose another one.").format(model=model)


def _wordOn(entry: CatalogEntry) -> str:
    if entry.weights.own:
        return _("Remove…")
    return _("Remove download") if isHere(entry) else _("Download…")


def _questionOf(entry: CatalogEntry) -> str:
    return _(
        "Delete your model '{name}' with its model card? It cannot be fetched again, only trained again. "
        "({description}) Other files in {folder} stay."
    ).format(name=entry.name, description=entry.description, folder=Path(entry.weights.path).parent)
