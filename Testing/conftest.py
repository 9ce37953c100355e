"""What every test stands on: checked shapes, few threads, fixed seeds, no network, and where real images lie."""

import ipaddress
import os
import random
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

from Testing import type_checks

THREADS = 1  # tensors are small here: on a busy machine two threads wait for one another most of the time
REPOSITORY = Path(__file__).resolve().parent.parent

# Both are read once, when the libraries start, so they must be set before any test module imports torch or SimpleITK.
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", str(THREADS))
jaxtyping.install_import_hook("InContextSegLib", f"{type_checks.__name__}.checked")


@pytest.fixture
def generator() -> np.random.Generator:
    """Randomness that is the same in every run."""
    return np.random.default_rng(2024)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with real images (environment variable INCONTEXTSEG_DATA, else ../shared/data)."""
    folder = Path(os.environ.get("INCONTEXTSEG_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real images in {folder}; name their folder in INCONTEXTSEG_DATA")
    return folder


@pytest.fixture(autouse=True)
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's own models: none but those of the test itself."""
    folder = tmp_path / "own models"
    monkeypatch.setenv("INCONTEXTSEG_MODELS", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    random.seed(0)
    # Only where a test module has imported torch already: the torch-free tests start quickly this way.
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.manual_seed(0)
        torch.set_num_threads(min(THREADS, torch.get_num_threads()))


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Anything but this machine itself is out of reach: a test that needs the network fails at once."""
    with pytest.MonkeyPatch.context() as patch:
        for method in ("connect", "connect_ex"):
            patch.setattr(socket.socket, method, _local_only(getattr(socket.socket, method)))
        patch.setattr(socket, "getaddrinfo", _resolve_local_only(socket.getaddrinfo))
        yield


def _local_only(connect: Callable) -> Callable:
    def guarded(self: socket.socket, address: object) -> object:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _refuse_unless_loopback(address[0])
        return connect(self, address)

    return guarded


def _resolve_local_only(resolve: Callable) -> Callable:
    def guarded(host: str | bytes | None, *args: object, **kwargs: object) -> list:
        _refuse_unless_loopback(host)
        return resolve(host, *args, **kwargs)

    return guarded


def _refuse_unless_loopback(host: str | bytes | None) -> None:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return
    try:
        loopback = ipaddress.ip_address(name).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise RuntimeError(f"A test tried to reach {name}: tests use no network.")
