"""Weights come back as they went, and a file that is not plain tensors is refused without being run."""

import errno
import hashlib
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from InContextSegLib.errors import InputError, OutputError, WeightsError
from InContextSegLib.models.weights import load_weights, save_weights


@pytest.fixture
def tensors():
    return {"conv.weight": torch.arange(12.0).reshape(3, 4), "conv.bias": torch.tensor([1, 2], dtype=torch.int64)}


def assert_same(loaded, expected):
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0)
        assert not loaded[name].requires_grad


def hash_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_saved_weights_come_back_bit_by_bit_with_their_notes(tmp_path, tensors):
    path = tmp_path / "größe.safetensors"
    save_weights(path, tensors, {"recipe": "default"})
    assert_same(load_weights(path, hash_of(path)), tensors)
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["notes"]) == {"recipe": "default"}


def test_views_shared_memory_and_gradients_are_saved_as_plain_tensors(tmp_path):
    base = torch.arange(6.0).reshape(2, 3)
    save_weights(tmp_path / "a.safetensors", {"t": base.T, "same": base, "grad": torch.ones(2, requires_grad=True)})
    assert_same(load_weights(tmp_path / "a.safetensors"), {"t": base.T, "same": base, "grad": torch.ones(2)})


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("ending", [".pt", ".pth", ".PT"])
def test_a_state_dict_pickled_by_torch_is_read(tmp_path, tensors, ending, new_format):
    path = tmp_path / f"net{ending}"
    module = torch.nn.Linear(3, 2)
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=new_format)
    assert_same(load_weights(path, hash_of(path)), {name: p.detach() for name, p in module.state_dict().items()})


class Hostile:
    ran = False

    def __reduce__(self):
        return (setattr, (Hostile, "ran", True))


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    torch.save({"conv.weight": Hostile()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps({"conv.weight": Hostile()}))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(WeightsError, match=rf"{name} is damaged or holds more than plain tensors") as refusal:
            load_weights(tmp_path / name)
        assert "\n" not in str(refusal.value)
    assert not Hostile.ran


@pytest.mark.parametrize(
    "content", [torch.ones(2), {"model": {"w": torch.ones(2)}}, {"epoch": 3}, {1: torch.ones(1)}, {}, [torch.ones(1)]]
)
def test_a_file_without_a_plain_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"a\.pt does not hold named tensors; a plain state dict is needed"):
        load_weights(tmp_path / "a.pt")


def test_a_whole_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="holds more than plain tensors"):
        load_weights(tmp_path / "a.pt")


def test_damaged_weights_are_refused(tmp_path, tensors):
    save_weights(tmp_path / "a.safetensors", tensors)
    torch.save(tensors, tmp_path / "a.pt")
    for name, message in (("a.safetensors", "no safetensors file; fetch it again"), ("a.pt", "is damaged")):
        whole = (tmp_path / name).read_bytes()
        for content in (whole[: len(whole) // 2], whole[:5], b"", b"Not Found: this is a page of text.\n" * 9):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(WeightsError, match=message):
                load_weights(tmp_path / name)


def test_weights_with_another_hash_are_refused_with_both_hashes(tmp_path, tensors):
    path = tmp_path / "a.safetensors"
    save_weights(path, tensors)
    with pytest.raises(WeightsError, match=f"should have sha256 {'0' * 64} but have {hash_of(path)}"):
        load_weights(path, "0" * 64)


def test_a_missing_file_and_an_unknown_ending_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"a\.safetensors cannot be read \(No such file"):
        load_weights(tmp_path / "a.safetensors")
    with pytest.raises(
        WeightsError, match=r"a\.onnx is no weights file; its name must end in \.safetensors, \.pt, \.pth"
    ):
        load_weights(tmp_path / "a.onnx")


def test_weights_are_written_under_no_other_ending_and_not_empty(tmp_path, tensors):
    with pytest.raises(InputError, match=r"written as \.safetensors, but the name asked for is a\.pt"):
        save_weights(tmp_path / "a.pt", tensors)
    with pytest.raises(InputError, match="no tensor to write"):
        save_weights(tmp_path / "a.safetensors", {})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_earlier_file_and_leaves_nothing_else(tmp_path, tensors, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_weights(path, tensors)

    def full(self, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(OutputError, match=r"a\.safetensors cannot be written \(No space left on device\)"):
            save_weights(path, {"other": torch.zeros(1)})
    assert_same(load_weights(path), tensors)
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_output_error(tmp_path, tensors):
    with pytest.raises(OutputError, match="cannot be written"):
        save_weights(tmp_path / "nowhere" / "a.safetensors", tensors)
