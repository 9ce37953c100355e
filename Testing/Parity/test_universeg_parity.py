"""The factorised network against the published one: official outputs, and the plain form as the oracle."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from InContextSegLib.models.universeg import UniverSeg
from Testing.Parity.plain_universeg import plain_universeg

GOLDEN = Path(os.environ.get("INCONTEXTSEG_GOLDEN", Path(__file__).resolve().parents[3] / "shared" / "golden"))


def random_case(widths, size, queries, supports, dtype=torch.float32):
    torch.manual_seed(3)
    network = UniverSeg(widths).to(dtype)
    target = torch.rand(queries, 1, size, size, dtype=dtype)
    images = torch.rand(queries, supports, 1, size, size, dtype=dtype)
    return network, target, images, (torch.rand_like(images) > 0.6).to(dtype)


def test_the_official_state_dict_loads_and_gives_the_official_logits():
    path = GOLDEN / "universeg_v1.npz"
    if not path.exists():
        pytest.skip(f"Needs the official outputs, {path}; INCONTEXTSEG_GOLDEN names their folder.")
    golden = np.load(path)
    network = UniverSeg()
    network.load_state_dict({name[6:]: torch.tensor(golden[name]) for name in golden if name.startswith("param/")})
    inputs = [torch.tensor(golden[name]) for name in ("target_image", "support_images", "support_labels")]
    with torch.inference_mode():
        logits = network(*inputs)
    assert torch.allclose(logits, torch.tensor(golden["logits"]), atol=1e-4, rtol=0)


def test_version_one_has_the_published_number_of_parameters():
    assert sum(parameter.numel() for parameter in UniverSeg().parameters()) == 1_182_785


@pytest.mark.parametrize(
    ("widths", "supports"), [((8,) * 4, 1), ((8,) * 4, 7), ((4, 8, 8, 16, 12), 3), ((8, 8), 2), ((8, 6), 1)]
)
def test_the_factorised_form_equals_the_plain_form_in_double_precision(widths, supports):
    network, target, images, masks = random_case(widths, 32, 2, supports, torch.float64)
    plain = plain_universeg(network.state_dict(), target, images, masks, len(widths))
    with torch.inference_mode():
        factorised = network(target, images, masks)
    assert torch.allclose(factorised, plain, atol=1e-12, rtol=0)


def test_the_gradients_equal_those_of_the_plain_form():
    network, target, images, masks = random_case((8,) * 4, 32, 2, 3, torch.float64)
    network(target, images, masks).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    network.zero_grad()
    plain_universeg(dict(network.named_parameters()), target, images, masks).square().sum().backward()
    for name, parameter in network.named_parameters():
        # The last support convolution feeds nothing, in either form.
        assert (parameter.grad is None) == (gradients[name] is None) == name.startswith("dec_blocks.2.support"), name
        if parameter.grad is not None:
            assert torch.allclose(gradients[name], parameter.grad, atol=1e-9, rtol=1e-7), name


def test_prompts_enter_as_further_channels_of_the_plain_forms_query():
    torch.manual_seed(4)
    network = UniverSeg((8, 8, 12), promptable=True).double()
    _, target, images, masks = random_case((8, 8), 32, 2, 3, torch.float64)
    prompts = torch.rand(2, 4, 32, 32, dtype=torch.float64)
    plain = plain_universeg(network.state_dict(), torch.cat([target, prompts], dim=1), images, masks, 3)
    with torch.inference_mode():
        factorised = network(target, images, masks, prompts)
    assert torch.allclose(factorised, plain, atol=1e-12, rtol=0)
