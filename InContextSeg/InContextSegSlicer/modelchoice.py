"""The choice of the network and of the device it computes on."""

from collections.abc import Callable, Mapping, Sequence

from slicer.i18n import tr as _

from InContextSegLib.catalog import cache_folder, find, list_entries
from InContextSegLib.modelentry import CatalogEntry
from InContextSegSlicer.controller import Controller

MEGABYTE = 1e6


class ModelChoice:
    """Shows the models of the catalogue with licence and size; weights are fetched and removed on request only.

    Args:
        ui: with `modelBox`, `modelText`, `modelButton` and `deviceBox`.
        choose: called with the name of a parameter and its new value.

    Attributes:
        names: of the models.
    """

    def __init__(self, ui, controller: Controller, choose: Callable[[str, str], None]):
        self._ui, self._controller, self._choose = ui, controller, choose
        self.names = tuple(entry.name for entry in list_entries())
        for entry in list_entries():
            ui.modelBox.addItem(entry.name, entry.name)
        self._devices: tuple = ()
        self.showDevices(())
        ui.modelBox.connect("currentIndexChanged(int)", lambda index: choose("model", ui.modelBox.itemData(index)))
        ui.deviceBox.connect("currentIndexChanged(int)", lambda index: choose("device", ui.deviceBox.itemData(index)))
        ui.modelButton.connect("clicked()", self._fetchOrRemove)

    def show(self, model: str, device: str) -> None:
        """Show what is chosen."""
        for box, value in ((self._ui.modelBox, model), (self._ui.deviceBox, device)):
            index = box.findData(value)
            if index != box.currentIndex:
                wasBlocked = box.blockSignals(True)
                box.setCurrentIndex(index)
                box.blockSignals(wasBlocked)
        entry = find(model)
        self._ui.modelText.setText(aboutModel(entry))
        self._ui.modelButton.setVisible(not entry.weights.embedded)
        self._ui.modelButton.setText(_("Remove download") if isHere(entry) else _("Download…"))

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

    def _fetchOrRemove(self) -> None:
        entry = find(self._ui.modelBox.itemData(self._ui.modelBox.currentIndex))
        action = "remove" if isHere(entry) else "ensure"
        message = _("Removing the download") if action == "remove" else _("Downloading the weights")
        payload = {"name": entry.name, "action": action}
        self._controller.ask("weights", payload, lambda _answer: None, message)


def isHere(entry: CatalogEntry) -> bool:
    """Whether the weights are on this computer."""
    return entry.weights.embedded or (cache_folder() / entry.weights.filename).is_file()


def aboutModel(entry: CatalogEntry) -> str:
    """What a person should know before choosing or fetching a model."""
    size = f", {entry.weights.size_bytes / MEGABYTE:.1f} MB" if entry.weights.size_bytes else ""
    where = _("comes with the extension") if entry.weights.embedded else _("is fetched when you ask for it")
    return _("{description} Licence: {licence}{size}; {where}.").format(
        description=entry.description, licence=entry.licence, size=size, where=where
    )
