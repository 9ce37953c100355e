"""The conditions that every test relies on do hold."""

import os
import random
import socket

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from InContextSegLib.volumes.overlap import dice


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "example.org"])
def test_no_test_reaches_the_network(address):
    with pytest.raises(RuntimeError, match=f"tried to reach {address}: tests use no network"):
        socket.create_connection((address, 443), timeout=1)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as connection, pytest.raises(RuntimeError, match="tests use no network"):
        connection.connect((address, 443))


def test_a_test_may_talk_to_a_server_of_its_own():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=5) as connection,
    ):
        assert connection.getpeername() == server.getsockname()


def test_an_array_of_the_wrong_shape_or_type_does_not_pass_an_annotation():
    with pytest.raises(TypeCheckError):
        dice(np.zeros((2, 2), dtype=bool), np.zeros((2, 3), dtype=bool))
    with pytest.raises(TypeCheckError):
        dice(np.zeros((2, 2, 2), dtype=bool), np.zeros((2, 2, 2)))


@pytest.mark.parametrize("_again", range(2))
def test_every_test_starts_from_the_same_random_state(_again, generator):
    assert random.random() == random.Random(0).random()
    torch.testing.assert_close(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(0)))
    assert generator.random() == np.random.default_rng(2024).random()


def test_torch_stays_within_its_threads():
    assert torch.get_num_threads() <= 2
    assert int(os.environ["OMP_NUM_THREADS"]) >= 1


def test_real_images_are_found_where_the_variable_says(data_folder):
    assert data_folder.is_dir()
