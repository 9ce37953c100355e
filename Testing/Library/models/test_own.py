"""A user's own models: kept whole or not at all, found as they are now, and removed without what is not theirs."""

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from InContextSegLib.errors import InputError, OutputError, WeightsError
from InContextSegLib.models import own as ownmodels
from InContextSegLib.models.catalog import check_new_name, ensure, find, list_entries, pinned_sha256, remove
from InContextSegLib.models.entry import Capability, CatalogEntry, Weights
from InContextSegLib.models.own import card_of, keep, models_folder

CONTENT = b"forty-two tensors"


def names():
    return [each.name for each in list_entries()]


def trained(tmp_path, name="livers", content=CONTENT):
    """An entry whose weights lie in the folder of a run."""
    path = tmp_path / "run.safetensors"
    path.write_bytes(content)
    return CatalogEntry(
        name=name,
        description="Ours.",
        model="sricl",
        capability=Capability(input_size=128, support="required"),
        weights=Weights(path=str(path), sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content)),
        licence="unstated",
        citation="",
        arguments={"widths": (8, 8, 16, 16), "channels": 16},
    )


def files_in(folder):
    return sorted(each.name for each in folder.iterdir())


@pytest.mark.parametrize(
    ("environ", "platform", "wanted"),
    [
        ({"INCONTEXTSEG_MODELS": "/data/models"}, "linux", "/data/models"),
        ({}, "linux", "/home/me/.local/share/incontextseg/models"),
        ({"XDG_DATA_HOME": "/data"}, "linux", "/data/incontextseg/models"),
        ({"XDG_DATA_HOME": "data"}, "linux", "/home/me/.local/share/incontextseg/models"),
        ({}, "darwin", "/home/me/Library/Application Support/InContextSeg/Models"),
        ({}, "win32", "/home/me/AppData/Local/InContextSeg/Models"),
        ({"LOCALAPPDATA": "/local"}, "win32", "/local/InContextSeg/Models"),
    ],
)
def test_models_lie_where_the_platform_keeps_what_people_made(monkeypatch, environ, platform, wanted):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    assert models_folder(environ, platform) == Path(wanted)


def test_without_a_home_there_are_the_models_of_the_software_alone(monkeypatch):
    monkeypatch.delenv("INCONTEXTSEG_MODELS")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)

    def no_home():
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", no_home)
    assert names() == ["default", "universeg", "universeg-v1"]
    with pytest.raises(InputError, match="No folder for your own models is known; name one in INCONTEXTSEG_MODELS"):
        models_folder()


def test_a_model_that_was_just_kept_is_found_with_its_weights_card_and_figures(tmp_path, own_models):
    assert names() == ["default", "universeg", "universeg-v1"]
    (tmp_path / "curves.png").write_bytes(b"picture")
    kept = keep(trained(tmp_path), {"card.md": "# Livers\n", "curves.png": tmp_path / "curves.png"})
    assert names() == ["default", "universeg", "universeg-v1", "livers"] and find("livers") == kept
    assert kept.arguments == {"widths": (8, 8, 16, 16), "channels": 16} and kept.weights.own
    path = ensure(kept, tmp_path / "unused")
    assert path == own_models / "livers" / "weights.safetensors" and path.read_bytes() == CONTENT
    assert pinned_sha256(kept, tmp_path / "unused") == hashlib.sha256(CONTENT).hexdigest()
    assert card_of(kept) == "# Livers\n"
    assert files_in(own_models / "livers") == ["card.md", "curves.png", "entry.json", "weights.safetensors"]
    assert files_in(own_models) == ["livers"] and str(tmp_path) not in (own_models / "livers/entry.json").read_text()


def test_what_somebody_else_put_under_that_name_stays(tmp_path, own_models):
    (own_models / "livers").mkdir(parents=True)
    (own_models / "livers" / "weights.safetensors").write_bytes(b"of somebody else")
    keep(trained(tmp_path), {})
    assert (own_models / "livers" / "weights.safetensors").read_bytes() == CONTENT
    assert (own_models / "livers" / "earlier-weights.safetensors").read_bytes() == b"of somebody else"
    (own_models / "notes").write_text("mine")
    with pytest.raises(InputError, match=r'cannot be called "notes", as .*notes is a file; choose another name'):
        keep(replace(find("livers"), name="notes"), {})
    assert (own_models / "notes").read_text() == "mine"


def test_changed_weights_are_not_used(tmp_path, own_models):
    kept = keep(trained(tmp_path), {})
    (own_models / "livers" / "weights.safetensors").write_bytes(b"else")
    with pytest.raises(WeightsError, match=r'"livers" should have sha256 .* but have .*; remove the model, or put'):
        ensure(kept, tmp_path)


@pytest.mark.parametrize("name", ["", "a b", "../a", "a/b", ".a", "a.", "Leber-ä", "x" * 65, "con", "NUL.txt"])
def test_a_name_that_some_system_cannot_keep_is_refused(name):
    with pytest.raises(InputError, match="A model cannot be called"):
        check_new_name(name)


def test_names_that_mean_another_model_are_refused(tmp_path):
    for name in ("default", "Universeg-V1", "sricl"):
        with pytest.raises(InputError, match="belongs to a model that comes with the software"):
            check_new_name(name, replacing=True)
    keep(trained(tmp_path), {})
    with pytest.raises(InputError, match='a model "livers", which differs from "Livers" in capitals only'):
        check_new_name("Livers", replacing=True)
    with pytest.raises(InputError, match='a model "livers" already; choose another name, or ask to replace it'):
        keep(trained(tmp_path), {})
    check_new_name("livers", replacing=True)


def test_a_model_is_replaced_and_what_the_user_put_beside_it_stays(tmp_path, own_models):
    keep(trained(tmp_path), {"card.md": "first", "old.png": "old"})
    (own_models / "livers" / "notes.txt").write_text("mine")
    (own_models / "livers" / "new.png").write_text("mine too")
    kept = keep(trained(tmp_path, content=b"better"), {"card.md": "second", "new.png": "new"}, replacing=True)
    assert ensure(find("livers"), tmp_path).read_bytes() == b"better" and card_of(kept) == "second"
    place = own_models / "livers"
    assert files_in(place) == [
        "card.md",
        "earlier-new.png",
        "entry.json",
        "new.png",
        "notes.txt",
        "weights.safetensors",
    ]
    assert (place / "new.png").read_text() == "new" and (place / "earlier-new.png").read_text() == "mine too"
    assert files_in(own_models) == ["livers"]


def test_a_model_that_could_not_be_written_changes_nothing(tmp_path, own_models, monkeypatch):
    keep(trained(tmp_path), {"card.md": "first"})

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ownmodels.shutil, "copyfile", full)
        with pytest.raises(OutputError, match="could not be written: the disk is full"):
            keep(trained(tmp_path, content=b"better"), {"card.md": "second"}, replacing=True)
    assert files_in(own_models) == ["livers"] and card_of(find("livers")) == "first"
    rename = Path.rename
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda self, to: full() if ".keeping" in self.name else rename(self, to))
        with pytest.raises(OutputError, match="livers cannot be written"):
            keep(trained(tmp_path, content=b"better"), {"card.md": "second"}, replacing=True)
    assert files_in(own_models) == ["livers"] and card_of(find("livers")) == "first"


def test_a_process_that_dies_while_it_replaces_a_model_leaves_the_earlier_one(tmp_path, own_models):
    keep(trained(tmp_path), {"card.md": "first"})
    (own_models / "livers").rename(own_models / ".before-livers")
    assert names()[3:] == ["livers"] and ensure(find("livers"), tmp_path).read_bytes() == CONTENT
    keep(trained(tmp_path, content=b"better"), {"card.md": "second"}, replacing=True)
    assert files_in(own_models) == ["livers"] and card_of(find("livers")) == "second"


def test_weights_that_changed_since_the_training_are_not_kept(tmp_path, own_models):
    entry = trained(tmp_path)
    (tmp_path / "run.safetensors").write_bytes(b"else")
    with pytest.raises(WeightsError, match="are not those of livers; train again"):
        keep(entry, {})
    assert files_in(own_models) == []


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda place: (place / "weights.safetensors").unlink(), "its file weights.safetensors is missing"),
        (lambda place: (place / "entry.json").write_text("{"), "its file entry.json is damaged"),
        (lambda place: (place / "entry.json").write_text("[1]"), "its file entry.json is damaged"),
        (lambda place: rewritten(place, licence=None), "entry.licence: expected a text"),
        (lambda place: rewritten(place, weights={"sha256": "0"}), "sha256 must be 64 lower-case"),
    ],
)
def test_a_damaged_model_is_left_out_by_name_and_the_others_are_there(tmp_path, own_models, caplog, damage, why):
    keep(trained(tmp_path), {})
    keep(trained(tmp_path, "kidneys"), {})
    damage(own_models / "livers")
    with caplog.at_level(logging.WARNING):
        assert names() == names() == ["default", "universeg", "universeg-v1", "kidneys"]
    [message] = caplog.messages
    assert f'Your model "livers" in {own_models / "livers"} is left out:' in message and why in message
    keep(trained(tmp_path), {}, replacing=True)
    assert "livers" in names()


def rewritten(place, **changes):
    mapping = json.loads((place / "entry.json").read_text(encoding="utf-8"))
    mapping["entry"] |= changes
    (place / "entry.json").write_text(json.dumps(mapping), encoding="utf-8")


def test_a_model_with_the_name_of_one_that_came_with_a_later_version_gives_way(tmp_path, own_models, caplog):
    keep(trained(tmp_path), {})
    (own_models / "livers").rename(own_models / "Default")
    assert names() == ["default", "universeg", "universeg-v1"]
    assert "comes with the software has that name; rename its folder" in caplog.text


def test_removing_deletes_what_was_written_and_nothing_else(tmp_path, own_models):
    keep(trained(tmp_path), {"card.md": "first"})
    assert remove(find("livers"), tmp_path) and names() == ["default", "universeg", "universeg-v1"]
    assert files_in(own_models) == []
    kept = keep(trained(tmp_path), {"card.md": "first"})
    (own_models / "livers" / "notes.txt").write_text("mine")
    assert remove(kept, tmp_path) and not remove(kept, tmp_path)
    assert files_in(own_models / "livers") == ["notes.txt"] and names() == ["default", "universeg", "universeg-v1"]
    keep(trained(tmp_path), {})
    assert (own_models / "livers" / "notes.txt").read_text() == "mine"


def test_an_entry_cannot_make_us_delete_files_elsewhere(tmp_path, own_models, caplog):
    keep(trained(tmp_path), {})
    mapping = json.loads((own_models / "livers/entry.json").read_text(encoding="utf-8")) | {
        "files": ["../../run.safetensors"]
    }
    (own_models / "livers/entry.json").write_text(json.dumps(mapping), encoding="utf-8")
    assert names() == ["default", "universeg", "universeg-v1"] and "files must be plain file names" in caplog.text


def test_a_folder_that_cannot_be_listed_is_said(own_models, caplog):
    own_models.write_text("a file")
    assert names() == ["default", "universeg", "universeg-v1"]
    assert "cannot be listed" in caplog.text
