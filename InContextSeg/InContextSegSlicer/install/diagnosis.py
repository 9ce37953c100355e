"""Why an installation failed, in plain words: the last lines of pip, read for somebody who does not know pip."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from slicer.i18n import tr as _


@dataclass(frozen=True)
class Failure:
    """What went wrong, in one sentence, and what to do about it."""

    what: str
    advice: str


def explain(log: Sequence[str], exitCode: int) -> Failure:
    """The first cause that the output of pip gives away.

    From the unmistakable to the merely likely: a broken network makes pip say that a package does not exist.
    Warnings about retries stand in the log of installations that went well in the end, so ask only after a failure.
    """
    text = "\n".join(log)
    for pattern, failure in [*_ofThisComputer(), *_ofTheNetwork(), *_ofThePackages()]:
        if re.search(pattern, text, re.IGNORECASE):
            return failure
    return _unknown(log, exitCode)


def _ofThisComputer() -> list[tuple[str, Failure]]:
    return [
        (
            r"no space left on device|errno 28\b|winerror 112\b|not enough space on the disk|disk quota exceeded",
            Failure(
                _("The disk is full."),
                _(
                    "Free some gigabytes on the disk that holds Slicer and on the one for temporary files, then try"
                    " again."
                ),
            ),
        ),
        (
            r"winerror 32\b|being used by another process",
            Failure(
                _("A file that must be replaced is in use."),
                _("Restart Slicer and try again before opening other modules; close other Slicer windows."),
            ),
        ),
        (
            r"permission denied|errno 13\b|winerror 5\b|access is denied|read-only file system|errno 30\b",
            Failure(
                _("Slicer may not write into its own folder."),
                _(
                    "Install Slicer into a folder of your own, such as your home folder, or ask whoever installed it to"
                    " run this installation once."
                ),
            ),
        ),
        (
            r"memoryerror|cannot allocate memory|out of memory",
            Failure(_("The computer ran out of memory."), _("Close other programs and try again.")),
        ),
    ]


def _ofTheNetwork() -> list[tuple[str, Failure]]:
    return [
        (
            r"certificate_verify_failed|certificate verify failed|sslerror|sslcertverificationerror",
            Failure(
                _("The connection is not trusted: something between here and the internet replaces certificates."),
                _(
                    "Hospitals often do this. Ask your IT department for its certificate file, set the environment"
                    " variable PIP_CERT to that file, start Slicer again and try again."
                ),
            ),
        ),
        (
            r"proxyerror|proxy authentication required|tunnel connection failed|cannot connect to proxy|\b407\b",
            Failure(
                _("The network's proxy did not let the download through."),
                _(
                    "Ask your IT department for the address of the proxy, set the environment variable HTTPS_PROXY to"
                    " http://user:password@address:port, start Slicer again and try again."
                ),
            ),
        ),
        (
            r"failed to establish a new connection|name or service not known|getaddrinfo failed|nodename nor servname"
            r"|temporary failure in name resolution|network is unreachable|connecttimeout|connection timed out"
            r"|read timed out|readtimeout|no route to host|connection (was )?(aborted|reset|refused|broken)"
            r"|incompleteread|remotedisconnected",
            Failure(
                _("The internet could not be reached, or the connection broke."),
                _("Check the network and try again; what is already installed is kept."),
            ),
        ),
    ]


def _ofThePackages() -> list[tuple[str, Failure]]:
    return [
        (
            r"resolutionimpossible|conflicting dependencies|cannot install .* because these package versions",
            Failure(
                _("Packages that are installed already stand in each other's way; nothing was replaced."),
                _("Look in the log for the names after 'conflict'. A fresh copy of Slicer has no such conflict."),
            ),
        ),
        (
            r"requires a different python|requires-python|not a supported wheel|no matching distribution found"
            r"|could not find a version that satisfies",
            Failure(
                _("There is no version of a package for this Slicer on this computer."),
                _("Install the newest Slicer; of Macs, only those with Apple's own processors are still served."),
            ),
        ),
        (
            r"no module named '?pip\b",
            Failure(_("This Slicer has no pip, the tool that installs packages."), _("Install Slicer anew.")),
        ),
    ]


def _unknown(log: Sequence[str], exitCode: int) -> Failure:
    last = next((line.strip() for line in reversed(log) if re.match(r"\s*(error|\w*error:)", line, re.IGNORECASE)), "")
    if last:
        what = _("pip, the tool that installs packages, stopped: {line}").format(line=last)
    elif exitCode < 0:
        what = _("pip, the tool that installs packages, was ended from outside, or crashed.")
    else:
        what = _("pip, the tool that installs packages, stopped with code {code}.").format(code=exitCode)
    return Failure(what, _("Try again. If it happens again, copy the log and report it."))
