"""The models one can choose by name, and their weights: embedded, or fetched on request and checked."""

import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from InContextSegLib.config import from_mapping, read_toml
from InContextSegLib.errors import InputError, OutputError, WeightsError
from InContextSegLib.models.entry import CatalogEntry, is_sha256
from InContextSegLib.models.own import check_name, own_entries, remove_own
from InContextSegLib.progress import Report

EMBEDDED_FOLDER = Path(__file__).parents[1] / "weights"

_TIMEOUT_S = 30
_CHUNK_BYTES = 1 << 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Catalog:
    entries: tuple[CatalogEntry, ...]

    def __post_init__(self):
        names = [entry.name for entry in self.entries]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"more than one entry is called {', '.join(twice)}.")


def built_in() -> tuple[CatalogEntry, ...]:
    """The entries that come with the software, in the order of the catalogue."""
    return _read_catalog(Path(__file__).parents[1] / "catalog.toml")


def list_entries() -> tuple[CatalogEntry, ...]:
    """All entries: those that come with the software, then the user's own as they are now."""
    return (*built_in(), *own_entries([entry.name for entry in built_in()]))


def check_new_name(name: str, replacing: bool = False) -> None:
    """See whether a new model of the user's own may be called so. Raises: InputError: if not."""
    check_name(name, [entry.name for entry in built_in()], replacing)


def find(name: str) -> CatalogEntry:
    """The entry called `name`.

    Raises:
        InputError: if there is none; the message lists the names there are.
    """
    entries = {entry.name: entry for entry in list_entries()}
    if name not in entries:
        raise InputError(f'There is no model "{name}" in the catalogue; choose one of {", ".join(entries)}.')
    return entries[name]


def cache_folder(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Where downloaded weights are kept: INCONTEXTSEG_CACHE if set, else the platform's place for caches.

    Raises:
        InputError: if neither that nor a home folder is known.
    """
    if environ.get("INCONTEXTSEG_CACHE"):
        return Path(environ["INCONTEXTSEG_CACHE"])
    try:
        if platform == "darwin":
            return Path.home() / "Library" / "Caches" / "InContextSeg"
        if platform == "win32":
            local = environ.get("LOCALAPPDATA")
            return (Path(local) if local else Path.home() / "AppData" / "Local") / "InContextSeg" / "Cache"
        xdg = environ.get("XDG_CACHE_HOME", "")
        # The XDG specification asks to ignore a relative path.
        return (Path(xdg) if xdg.startswith("/") else Path.home() / ".cache") / "incontextseg"
    except RuntimeError as error:
        raise InputError("No folder for downloaded weights is known; name one in INCONTEXTSEG_CACHE.") from error


def download(
    url: str, target: Path, size_bytes: int | None, report: Report | None, connect: Callable | None = None
) -> None:
    """Fetch `url` into the file `target`, over https only, redirects included.

    Args:
        size_bytes: the expected size, for the progress where the server names none; more than twice as much is refused.
        connect: opens a request with a timeout (as `urllib.request.OpenerDirector.open`); given by tests.

    Raises:
        WeightsError: if the server cannot be reached, answers with an error, sends too much or breaks off.
        OutputError: if the file cannot be written.
        Cancelled: if `report` was cancelled.
    """
    _require_https(url)
    done = 0
    with _write_errors_said(target), target.open("wb") as file:
        for chunk, announced in _chunks(url, connect or build_opener(_HttpsRedirects).open):
            file.write(chunk)
            done += len(chunk)
            if size_bytes is not None and done > 2 * size_bytes:
                raise WeightsError(f"{url} sends more than twice the {size_bytes} bytes expected; it was not kept.")
            if report is not None:
                report.step(done, max(announced or size_bytes or 0, done), f"downloading {target.name}")


def ensure(
    entry: CatalogEntry, folder: Path, fetch: Callable[..., None] = download, report: Report | None = None
) -> Path:
    """The file with the entry's weights, its sha256 checked; fetched into `folder` if it is not there yet.

    A download appears whole or not at all. Where the catalogue knows no sha256, that of the first download is pinned in
    a file beside it, and said in the log; from then on nothing else is accepted.

    Args:
        folder: where downloads are kept, usually `cache_folder()`; other weights do not need it.
        fetch: called as `fetch(url, target, size_bytes, report)`.

    Raises:
        WeightsError: if the file is missing from the package, cannot be fetched, or has another sha256.
        OutputError: if the file cannot be written.
        Cancelled: if `report` was cancelled.
    """
    weights = entry.weights
    if weights.embedded:
        path = EMBEDDED_FOLDER / weights.filename
        if not path.is_file():
            raise WeightsError(
                f'The weights of "{entry.name}" are missing from this installation ({path}); reinstall it.'
            )
        _require_sha256(entry, path, weights.sha256, "reinstall InContextSeg")
        return path
    if weights.own:
        _require_sha256(entry, Path(weights.path), weights.sha256, "remove the model, or put the file back as it was")
        return Path(weights.path)
    path = folder / weights.filename
    with _write_errors_said(path):
        if path.is_file():
            _settle(entry, path, path, f"if the change is not yours, remove {path} and fetch it again")
            return path
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as aside:
            fetched = Path(aside) / weights.filename
            fetch(weights.url, fetched, weights.size_bytes, report)
            _settle(entry, fetched, path, "nothing was kept")
            fetched.replace(path)
    return path


def pinned_sha256(entry: CatalogEntry, folder: Path) -> str | None:
    """The sha256 that this entry's file must have: the catalogue's, else the one pinned at its first download.

    Raises:
        WeightsError: if the pin is damaged.
    """
    if entry.weights.sha256 is not None:
        return entry.weights.sha256
    pin = _pin(folder / entry.weights.filename)
    try:
        pinned = pin.read_text(encoding="ascii").split()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"The pinned sha256 in {pin} cannot be read; remove the weights to start over.") from error
    if not pinned or not is_sha256(pinned[0]):
        raise WeightsError(f"The pinned sha256 in {pin} is damaged; remove the weights to start over.")
    return pinned[0]


def remove(entry: CatalogEntry, folder: Path) -> bool:
    """Delete the entry's downloaded file and forget its pinned sha256, or delete a user's own model (`remove_own`).

    Returns:
        whether there was anything to delete.

    Raises:
        InputError: for weights that come with the package.
        OutputError: if the file cannot be deleted.
    """
    if entry.weights.embedded:
        raise InputError(f'The weights of "{entry.name}" are part of InContextSeg and cannot be removed.')
    if entry.weights.own:
        return remove_own(entry)
    path = folder / entry.weights.filename
    found = [file for file in (path, _pin(path)) if file.exists()]
    try:
        for file in found:
            file.unlink()
    except OSError as error:
        raise OutputError(f"{path} cannot be removed ({error.strerror or error}).") from error
    return bool(found)


class _HttpsRedirects(HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        _require_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_https(url: str) -> None:
    if not url.startswith("https://"):
        raise WeightsError(f"Weights are downloaded over https only, not from {url}.")


def _chunks(url: str, connect: Callable) -> Iterator[tuple[bytes, int]]:
    """What the server sends, piece by piece, each with the total it announced (0 if it did not)."""
    received = 0
    try:
        with connect(Request(url, headers={"User-Agent": "InContextSeg"}), timeout=_TIMEOUT_S) as answer:
            announced = int(answer.headers.get("Content-Length") or 0)
            while chunk := answer.read(_CHUNK_BYTES):
                received += len(chunk)
                yield chunk, announced
    except HTTPError as error:
        # An HTTPError is also the open answer.
        error.close()
        raise WeightsError(f"{url} cannot be downloaded: the server answered {error.code} {error.reason}.") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise WeightsError(f"{url} cannot be downloaded ({reason}); check the network and try again.") from error
    if announced and received != announced:
        raise WeightsError(f"{url} broke off after {received} of {announced} bytes; try again.")


@contextmanager
def _write_errors_said(path: Path) -> Iterator[None]:
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror or error}).") from error


@cache
def _read_catalog(path: Path) -> tuple[CatalogEntry, ...]:
    return from_mapping(_Catalog, read_toml(path), path.name).entries


def _settle(entry: CatalogEntry, file: Path, destination: Path, advice: str) -> None:
    """Check `file`, bound for `destination`, against the known sha256, or pin the one it has."""
    expected = pinned_sha256(entry, destination.parent)
    if expected is not None:
        _require_sha256(entry, file, expected, advice)
        return
    actual = _sha256(file)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".pin-") as aside:
        written = Path(aside) / "pin"
        written.write_text(f"{actual}  {destination.name}\n", encoding="ascii")
        written.replace(_pin(destination))
    _log.warning('The weights of "%s" have no published sha256; trusted now and pinned as %s.', entry.name, actual)


def _require_sha256(entry: CatalogEntry, file: Path, expected: str, advice: str) -> None:
    actual = _sha256(file)
    if actual != expected:
        raise WeightsError(f'The weights of "{entry.name}" should have sha256 {expected} but have {actual}; {advice}.')


def _pin(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"The weights {path} cannot be read ({error.strerror or error}).") from error
