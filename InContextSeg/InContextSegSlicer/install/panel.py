"""The part of the panel that tells what is missing, installs it, and says on what InContextSeg computes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from InContextSegSlicer.install.install import Installer, inUnits

_UI = Path(__file__).resolve().parents[2] / "Resources" / "UI" / "InContextSegInstall.ui"
_POLL_MS = 100


@dataclass(frozen=True)
class View:
    """What the panel shows in one state. Empty words are not shown, nor is a button without a label."""

    headline: str
    text: str
    primary: str = ""
    parts: bool = False
    running: bool = False
    log: bool = False


class InstallPanel:
    """The widgets of an `Installer`, for another panel to take in.

    Args:
        installer: what installs.
        onComplete: called when nothing is missing any more, after an installation.
        card: "nvidia", "apple" or "": what will be computed on, in words, before torch can be asked.
    """

    def __init__(self, installer: Installer, onComplete: Callable[[], None] = lambda: None, card: str = ""):
        self.installer = installer
        self.onComplete = onComplete
        self.card = card
        self._logged = 0
        self.widget = slicer.util.loadUI(str(_UI))
        self.ui = slicer.util.childWidgetVariables(self.widget)
        self._timer = qt.QTimer()
        self._timer.setInterval(_POLL_MS)
        self._timer.connect("timeout()", self.onTimer)
        self.ui.primaryButton.connect("clicked()", self.onPrimary)
        self.ui.cancelButton.connect("clicked()", self.onCancel)
        self.ui.copyLogButton.connect("clicked()", self.onCopyLog)
        self.ui.deviceLabel.text = expectedDevice(card)
        self.refresh()

    def enter(self) -> None:
        """The module is shown: go on where a restart interrupted, else look whether something is missing now."""
        if self.installer.mustResume():
            self._start()
        else:
            self.installer.look()
            self.refresh()

    def cleanup(self) -> None:
        """The module goes away. A running installation of torch goes with it; it can be started again."""
        self._timer.stop()
        self.installer.cancel()
        self.installer.poll()

    def showTrouble(self, message: str) -> None:
        """Show why the worker could not answer to "device", though everything is installed."""
        self.ui.deviceLabel.text = _("PyTorch does not start: {message}").format(message=message)

    def onPrimary(self) -> None:
        if self.installer.state == "restart":
            self.installer.restart()
        else:
            self._start()

    def onCancel(self) -> None:
        self.installer.cancel()
        self.refresh()

    def onCopyLog(self) -> None:
        qt.QApplication.clipboard().setText("\n".join(self.installer.log))

    def onTimer(self) -> None:
        self.installer.poll()
        self.refresh()
        if self.installer.state not in ("installing", "stopping"):
            self._timer.stop()
            if self.installer.state == "complete":
                self.onComplete()

    def _start(self) -> None:
        self.ui.logEdit.clear()
        self._logged = 0
        self.installer.start()
        self.refresh()
        self._timer.start()

    def refresh(self) -> None:
        view = viewOf(self.installer)
        self.ui.headlineLabel.text = view.headline
        _showText(self.ui.textLabel, view.text)
        _showText(self.ui.partsLabel, _table(self.installer) if view.parts else "")
        self.ui.primaryButton.text = view.primary
        self.ui.primaryButton.setVisible(bool(view.primary))
        self.ui.cancelButton.setVisible(view.running)
        self.ui.cancelButton.enabled = self.installer.state == "installing"
        self.ui.progressBar.setVisible(view.running)
        self.ui.logEdit.setVisible(view.log and bool(self.installer.log))
        self.ui.copyLogButton.setVisible(self.installer.state == "failed" and bool(self.installer.log))
        self._showProgress()
        self._showLog()

    def _showProgress(self) -> None:
        done, total = self.installer.download or (0, 0)
        self.ui.progressBar.setRange(0, 1000 if total else 0)
        self.ui.progressBar.setValue(1000 * done // total if total else 0)

    def _showLog(self) -> None:
        """Append what is new; the text follows its end as long as the user has not scrolled away from it."""
        for line in self.installer.log[self._logged :]:
            self.ui.logEdit.appendPlainText(line)
        self._logged = len(self.installer.log)


def viewOf(installer: Installer) -> View:
    """What to show, in words for somebody who does not know what pip is."""
    return {
        "complete": lambda _installer: View(_("Everything InContextSeg needs is installed."), ""),
        "missing": _missing,
        "installing": _installing,
        "stopping": lambda _installer: View(
            _("Stopping…"), _("The small package that is being installed is finished first."), running=True, log=True
        ),
        "failed": lambda failed: View(failed.failure.what, failed.failure.advice, primary=_("Try again"), log=True),
        "restart": _restart,
    }[installer.state](installer)


def _missing(installer: Installer) -> View:
    size = inUnits(sum(part.megabytes for part in installer.parts))
    if any(part.name == "PyTorch" for part in installer.parts):
        headline = _("Before the first use, PyTorch has to be installed.")
        text = _("InContextSeg computes with PyTorch, which Slicer does not bring along.")
    else:
        headline = _("Some small packages have to be installed.")
        text = _("InContextSeg uses tools that Slicer does not bring along.")
    about = _(
        "What is listed here is downloaded from pytorch.org and pypi.org into this Slicer only; nothing that came with"
        " Slicer is changed, and no image leaves this computer. You can work on meanwhile."
    )
    if installer.cancelled:
        text = _("The installation was stopped. No harm is done: it can be started again.")
    if installer.needsExtension():
        about += " " + _("Slicer has to be restarted once; the installation then goes on by itself.")
    return View(headline, f"{text} {about}", primary=_("Install (about {size})").format(size=size), parts=True)


def _installing(installer: Installer) -> View:
    minutes, seconds = divmod(int(installer.seconds), 60)
    headline = _("Installing… {time}").format(time=f"{minutes}:{seconds:02d}")
    text = _("You can work on in Slicer meanwhile, but leave it open.")
    if installer.download:
        done, total = (inUnits(size / 1e6) for size in installer.download)
        text += " " + _("This download: {done} of {total}.").format(done=done, total=total)
    return View(headline, text, running=True, log=True)


def _restart(installer: Installer) -> View:
    if installer.waitsForRestart():
        after = _("The installation goes on by itself when you open InContextSeg again.")
    else:
        after = _("After that everything is ready.")
    warning = _("Save your work first: what is not saved is lost.")
    return View(_("Slicer must be restarted now."), f"{after} {warning}", primary=_("Restart Slicer"))


def expectedDevice(card: str) -> str:
    """What the computer has, before torch is there to be asked."""
    return {
        "nvidia": _("This computer has an NVIDIA graphics card: PyTorch will use it, if the driver is recent enough."),
        "apple": _("On this Mac the processor will compute; Apple's graphics are not used yet."),
        "": _("No NVIDIA graphics card was found: the processor will compute. That is enough to work with."),
    }[card]


def describeDevice(answer: Mapping, card: str = "") -> str:
    """What the worker computes on, with memory and version; `card` is what the computer is known to have."""
    devices = {device["name"]: device for device in answer["devices"]}
    chosen = devices.get(answer["chosen"], {"title": answer["chosen"], "memory_bytes": 0, "free_bytes": 0})
    words = [_("Computes on {title}.").format(title=chosen["title"])]
    if chosen["memory_bytes"]:
        total, free = (inUnits(chosen[key] / 1e6) for key in ("memory_bytes", "free_bytes"))
        words.append(_("Memory: {total}, {free} of it free.").format(total=total, free=free))
    if answer["chosen"] == "cpu":
        words.append(_("Threads: {threads}.").format(threads=answer["threads"]))
    words.append(_("PyTorch {version}.").format(version=answer["torch"]))
    if card == "nvidia" and not any(name.startswith("cuda") for name in devices):
        words.append(
            _(
                "This computer has an NVIDIA graphics card that PyTorch does not use: update its driver, then install"
                " PyTorch anew in the module PyTorch Utils."
            )
        )
    return " ".join(words)


def _table(installer: Installer) -> str:
    rows = "".join(
        f"<tr><td>{escape(part.name)}&nbsp;&nbsp;</td><td>{escape(part.purpose)}&nbsp;&nbsp;</td>"
        f"<td align='right'>{escape(inUnits(part.megabytes))}</td></tr>"
        for part in installer.parts
    )
    return f"<table>{rows}</table>"


def _showText(label: "qt.QLabel", text: str) -> None:
    label.text = text
    label.setVisible(bool(text))
