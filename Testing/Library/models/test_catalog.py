"""Weights are what the catalogue says, or what they were the first time; nothing is fetched unasked."""

import hashlib
import io
import logging
from email.message import Message
from http.client import IncompleteRead
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request

import pytest

from InContextSegLib.errors import Cancelled, InputError, OutputError, WeightsError
from InContextSegLib.models import catalog
from InContextSegLib.models.catalog import (
    cache_folder,
    download,
    ensure,
    find,
    list_entries,
    pinned_sha256,
    remove,
)
from InContextSegLib.models.entry import Capability, CatalogEntry, Weights
from InContextSegLib.models.networks import build
from InContextSegLib.progress import Report

CONTENT = b"forty-two tensors"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
URL = "https://example.org/release/net.pt"


def entry(**weights):
    return CatalogEntry(
        name="net",
        description="",
        model="universeg",
        capability=Capability(input_size=128, support="required"),
        weights=Weights(**weights),
        licence="",
        citation="",
    )


KNOWN = entry(url=URL, sha256=SHA256, size_bytes=len(CONTENT))
UNKNOWN = entry(url=URL)


def sending(content):
    """A fetch that writes `content` and remembers the urls it was asked for."""

    def fetch(url, target, size_bytes, report):
        fetch.urls.append(url)
        target.write_bytes(content)

    fetch.urls = []
    return fetch


def never(*_):
    raise AssertionError("nothing must be fetched")


def names_in(folder):
    return sorted(path.name for path in folder.rglob("*"))


class Answer(io.BytesIO):
    """What a server sends: so many bytes at a time, then perhaps an error."""

    def __init__(self, content, length=None, error=None):
        super().__init__(content)
        self.headers = Message()
        self.error = error
        if length is not None:
            self.headers["Content-Length"] = str(length)

    def read(self, size=-1):
        chunk = super().read(min(size, 5))
        if not chunk and self.error is not None:
            raise self.error
        return chunk


def answering(*args, **kwargs):
    return lambda request, timeout: Answer(*args, **kwargs)


# --- the catalogue ---


def test_the_catalogue_names_licence_citation_and_size_of_every_entry():
    assert [item.name for item in list_entries()] == ["default", "universeg", "universeg-v1"]
    for item in list_entries():
        assert item.licence and item.citation and item.description
        assert item.capability.input_size % 8 == 0
        assert item.weights.embedded or item.weights.size_bytes


def test_what_an_entry_says_of_prompts_is_what_its_network_takes():
    for entry in list_entries():
        assert build(entry).promptable is bool(entry.capability.prompts), entry.name
        # A network without prompts has nothing to answer from but examples.
        assert entry.capability.prompts or entry.capability.support == "required", entry.name


def test_an_entry_is_found_by_its_name_and_a_wrong_name_gets_the_list():
    assert find("universeg-v1").arguments == {"widths": (64, 64, 64, 64)}
    with pytest.raises(
        InputError, match=r'no model "univrseg" in the catalogue; choose one of default, universeg, universeg-v1'
    ):
        find("univrseg")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "need either a file, a url or a path"),
        ({"file": "a", "url": URL, "sha256": SHA256}, "need either a file, a url or a path"),
        ({"file": "a.safetensors"}, "not fetched need their sha256"),
        ({"path": "/models/a.safetensors"}, "not fetched need their sha256"),
        ({"path": "a.safetensors", "sha256": SHA256}, "path must be a whole path"),
        ({"file": "../a.safetensors", "sha256": SHA256}, "file must be a plain file name"),
        ({"url": "http://example.org/a.pt"}, "url must start with https://"),
        ({"url": "https://example.org"}, "end in a file name"),
        ({"url": URL, "sha256": SHA256.upper()}, "64 lower-case hexadecimal digits"),
        ({"url": URL, "size_bytes": 0}, "size_bytes must be 1 or more, not 0"),
    ],
)
def test_weights_that_make_no_sense_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        Weights(**weights)


def test_an_input_without_pixels_is_refused():
    with pytest.raises(ValueError, match="input_size must be 1 pixel or more, not 0"):
        Capability(input_size=0, support="required")


def test_two_entries_of_one_name_are_refused(tmp_path):
    twice = Path(catalog.__file__).parents[1].joinpath("catalog.toml").read_text(encoding="utf-8")
    (tmp_path / "twice.toml").write_text(twice.replace("universeg-v1", "default"), encoding="utf-8")
    with pytest.raises(InputError, match=r"twice\.toml: more than one entry is called default"):
        catalog._read_catalog(tmp_path / "twice.toml")


# --- embedded weights ---


def test_embedded_weights_are_handed_out_after_their_hash_was_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "EMBEDDED_FOLDER", tmp_path)
    embedded = entry(file="net.safetensors", sha256=SHA256)
    with pytest.raises(WeightsError, match="missing from this installation"):
        ensure(embedded, tmp_path / "unused", fetch=never)
    (tmp_path / "net.safetensors").write_bytes(CONTENT)
    assert ensure(embedded, tmp_path / "unused", fetch=never) == tmp_path / "net.safetensors"
    (tmp_path / "net.safetensors").write_bytes(b"else")
    with pytest.raises(WeightsError, match=f"should have sha256 {SHA256} but have .*; reinstall"):
        ensure(embedded, tmp_path / "unused", fetch=never)
    assert not (tmp_path / "unused").exists()


def test_embedded_weights_cannot_be_removed(tmp_path):
    with pytest.raises(InputError, match="part of InContextSeg and cannot be removed"):
        remove(entry(file="net.safetensors", sha256=SHA256), tmp_path)


# --- weights from elsewhere ---


def test_weights_are_fetched_once_and_then_taken_from_the_folder(tmp_path):
    fetch = sending(CONTENT)
    folder = tmp_path / "größe" / "cache"
    path = ensure(KNOWN, folder, fetch)
    assert path.read_bytes() == CONTENT and fetch.urls == [URL]
    assert ensure(KNOWN, folder, never) == path
    assert names_in(folder) == ["net.pt"]


def test_a_download_with_another_hash_is_not_kept_and_both_hashes_are_said(tmp_path):
    other = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(WeightsError, match=f"should have sha256 {SHA256} but have {other}; nothing was kept"):
        ensure(KNOWN, tmp_path, sending(b"other"))
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("error", [WeightsError("broke off"), Cancelled("stop"), KeyboardInterrupt()])
def test_an_interrupted_download_leaves_nothing(tmp_path, error):
    def fetch(url, target, size_bytes, report):
        target.write_bytes(CONTENT[:5])
        raise error

    with pytest.raises(type(error)):
        ensure(KNOWN, tmp_path, fetch)
    assert names_in(tmp_path) == []


def test_weights_without_a_known_hash_are_trusted_once_pinned_and_said(tmp_path, caplog):
    assert pinned_sha256(UNKNOWN, tmp_path) is None
    with caplog.at_level(logging.WARNING):
        ensure(UNKNOWN, tmp_path, sending(CONTENT))
    assert SHA256 in caplog.text and "pinned" in caplog.text
    assert pinned_sha256(UNKNOWN, tmp_path) == SHA256
    assert names_in(tmp_path) == ["net.pt", "net.pt.sha256"]
    caplog.clear()
    ensure(UNKNOWN, tmp_path, never)
    assert caplog.text == ""


def test_weights_that_differ_from_their_pin_are_refused_where_they_lie(tmp_path):
    path = ensure(UNKNOWN, tmp_path, sending(CONTENT))
    path.write_bytes(b"changed")
    with pytest.raises(
        WeightsError, match=f"should have sha256 {SHA256} but have .*remove .*net.pt and fetch it again"
    ):
        ensure(UNKNOWN, tmp_path, never)


def test_weights_that_differ_from_their_pin_are_refused_when_fetched_again(tmp_path):
    ensure(UNKNOWN, tmp_path, sending(CONTENT)).unlink()
    with pytest.raises(WeightsError, match=f"should have sha256 {SHA256}"):
        ensure(UNKNOWN, tmp_path, sending(b"changed"))
    assert names_in(tmp_path) == ["net.pt.sha256"]


def test_a_file_put_there_by_hand_is_pinned_like_a_download(tmp_path):
    (tmp_path / "net.pt").write_bytes(CONTENT)
    ensure(UNKNOWN, tmp_path, never)
    assert pinned_sha256(UNKNOWN, tmp_path) == SHA256


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is damaged"), (b"abc  net.pt", "is damaged"), (b"\xff", "cannot be read")]
)
def test_a_damaged_pin_is_no_permission(tmp_path, content, message):
    ensure(UNKNOWN, tmp_path, sending(CONTENT))
    (tmp_path / "net.pt.sha256").write_bytes(content)
    with pytest.raises(WeightsError, match=f"pinned sha256 in .* {message}.*; remove the weights to start over"):
        ensure(UNKNOWN, tmp_path, never)


def test_removed_weights_are_gone_with_their_pin(tmp_path):
    ensure(UNKNOWN, tmp_path, sending(CONTENT))
    assert remove(UNKNOWN, tmp_path) is True
    assert names_in(tmp_path) == []
    assert remove(UNKNOWN, tmp_path) is False
    ensure(UNKNOWN, tmp_path, sending(b"changed"))


def test_a_file_that_cannot_be_deleted_is_said(tmp_path, monkeypatch):
    ensure(KNOWN, tmp_path, sending(CONTENT))

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(OutputError, match=r"net\.pt cannot be removed \(Permission denied\)"):
            remove(KNOWN, tmp_path)


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_fetched(tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(OutputError, match=r"net\.pt cannot be written \("):
        ensure(KNOWN, tmp_path / "file" / "cache", never)


def test_weights_that_cannot_be_read_are_said(tmp_path, monkeypatch):
    path = ensure(KNOWN, tmp_path, sending(CONTENT))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        with pytest.raises(WeightsError, match=r"net\.pt cannot be read \(Permission denied\)"):
            ensure(KNOWN, path.parent, never)


# --- the download itself ---


def test_a_download_arrives_with_progress(tmp_path):
    steps = []
    report = Report(lambda done, total, message: steps.append((done, total, message)))
    download(URL, tmp_path / "net.pt", None, report, answering(CONTENT, length=len(CONTENT)))
    assert (tmp_path / "net.pt").read_bytes() == CONTENT
    assert steps[0] == (5, 17, "downloading net.pt") and steps[-1][:2] == (17, 17)


def test_progress_uses_the_expected_size_where_the_server_names_none(tmp_path):
    totals = []
    report = Report(lambda done, total, message: totals.append(total))
    download(URL, tmp_path / "net.pt", 12, report, answering(CONTENT))
    assert totals == [12, 12, 15, 17]


def test_a_cancelled_download_stops_at_the_next_piece(tmp_path):
    report = Report()
    report.cancel()
    with pytest.raises(Cancelled):
        ensure(KNOWN, tmp_path, lambda *args: download(*args, connect=answering(CONTENT)), report)
    assert names_in(tmp_path) == []


def test_a_request_names_this_program_and_has_a_timeout(tmp_path):
    seen = []

    def connect(request, timeout):
        seen.append((request.full_url, request.get_header("User-agent"), timeout))
        return Answer(CONTENT)

    download(URL, tmp_path / "net.pt", None, None, connect)
    assert seen == [(URL, "InContextSeg", 30)]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (URLError(OSError(-2, "Name or service not known")), r"Name or service not known\); check the network"),
        (TimeoutError("timed out"), r"\(timed out\); check the network"),
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
        (HTTPError(URL, 404, "Not Found", Message(), io.BytesIO()), "the server answered 404 Not Found"),
    ],
)
def test_a_network_error_becomes_one_sentence(tmp_path, error, message):
    def connect(request, timeout):
        raise error

    with pytest.raises(WeightsError, match=rf"^https://example\.org/release/net\.pt cannot be downloaded.*{message}"):
        download(URL, tmp_path / "net.pt", None, None, connect)


def test_a_connection_that_breaks_is_said(tmp_path):
    with pytest.raises(WeightsError, match=r"broke off after 17 of 20 bytes; try again"):
        download(URL, tmp_path / "net.pt", None, None, answering(CONTENT, length=20))
    with pytest.raises(WeightsError, match=r"cannot be downloaded \(IncompleteRead"):
        download(URL, tmp_path / "net.pt", None, None, answering(CONTENT, error=IncompleteRead(b"", 3)))


def test_an_answer_without_sense_is_said(tmp_path):
    with pytest.raises(WeightsError, match=r"cannot be downloaded \(invalid literal"):
        download(URL, tmp_path / "net.pt", None, None, answering(CONTENT, length="many"))


def test_a_server_that_sends_far_too_much_is_stopped(tmp_path):
    with pytest.raises(WeightsError, match="sends more than twice the 5 bytes expected"):
        download(URL, tmp_path / "net.pt", 5, None, answering(CONTENT))


def test_a_target_that_cannot_be_written_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match=r"net\.pt cannot be written \(No such file"):
        download(URL, tmp_path / "nowhere" / "net.pt", None, None, answering(CONTENT))


@pytest.mark.parametrize("url", ["http://example.org/net.pt", "file:///etc/passwd", "ftp://example.org/net.pt"])
def test_only_https_is_used_also_after_a_redirect(tmp_path, url):
    with pytest.raises(WeightsError, match=f"over https only, not from {url}"):
        download(url, tmp_path / "net.pt", None, None, answering(CONTENT))
    redirects = catalog._HttpsRedirects()
    with pytest.raises(WeightsError, match="over https only"):
        redirects.redirect_request(Request(URL), None, 302, "Found", Message(), url)
    followed = redirects.redirect_request(Request(URL), None, 302, "Found", Message(), "https://example.org/b.pt")
    assert followed.full_url == "https://example.org/b.pt"


# --- where downloads are kept ---


def test_the_cache_lies_where_the_platform_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_folder({"INCONTEXTSEG_CACHE": "/data/weights", "XDG_CACHE_HOME": "/x"}) == Path("/data/weights")
    assert cache_folder({"XDG_CACHE_HOME": "/x"}, "linux") == Path("/x/incontextseg")
    assert cache_folder({"XDG_CACHE_HOME": "relative"}, "linux") == tmp_path / ".cache" / "incontextseg"
    assert cache_folder({}, "darwin") == tmp_path / "Library" / "Caches" / "InContextSeg"
    assert cache_folder({"LOCALAPPDATA": "/local"}, "win32") == Path("/local/InContextSeg/Cache")
    assert cache_folder({}, "win32") == tmp_path / "AppData" / "Local" / "InContextSeg" / "Cache"


def test_without_a_home_the_user_is_asked_to_name_a_cache(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(InputError, match="name one in INCONTEXTSEG_CACHE"):
        cache_folder({}, "linux")
