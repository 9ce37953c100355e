"""Networks that segment from examples: each is `encode` + `condition` + `segment`."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from InContextSegLib.models.entry import CatalogEntry
from InContextSegLib.models.incontext import InContextNet
from InContextSegLib.models.sricl import SRICL
from InContextSegLib.models.universeg import UniverSeg


@runtime_checkable
class SliceSegmenter(Protocol):
    """What inference asks of a network. The two first calls depend on one argument each, so their results are cached.

    An embedding and a context say their `size_bytes`, by which the caches are bounded.

    Attributes:
        promptable: whether `segment` takes prompts, and does without examples.
    """

    promptable: bool

    def encode(self, images: Float[Tensor, "b 1 h w"]) -> Any:
        """What depends on the images alone."""

    def condition(self, images: Float[Tensor, "g s 1 h w"], masks: Float[Tensor, "g s 1 h w"]) -> Any:
        """What depends on the labelled examples alone."""

    def join(self, contexts: Sequence[Any]) -> Any:
        """One context, as if the examples of all of them had been conditioned together."""

    def segment(
        self, embedding: Any, context: Any, prompts: Float[Tensor, "b 4 h w"] | None = None
    ) -> Float[Tensor, "b 1 h w"]:
        """Logits. A context of None is no examples; `prompts` are those of `UniverSeg.segment`."""


Network = InContextNet | UniverSeg | SRICL
_NETWORKS = {"incontext": InContextNet, "universeg": UniverSeg, "sricl": SRICL}


def build(entry: CatalogEntry) -> Network:
    """The network of a catalogue entry, without its weights, in evaluation mode.

    Raises:
        ValueError: if the entry names an architecture that this version does not have.
    """
    return _network(entry)(**entry.arguments).eval()


def fitting(entry: CatalogEntry, state: Mapping[str, Tensor]) -> Network:
    """The same of the widths that a state dict has, whatever the entry says of them; its values are not loaded.

    Raises:
        ValueError: as `build`.
        KeyError: if it is not the state dict of such a network.
    """
    return _network(entry).fitting(state).eval()


def name_of(network: Network) -> str:
    """What a catalogue entry calls the architecture of a network."""
    return next(name for name, kind in _NETWORKS.items() if isinstance(network, kind))


def _network(entry: CatalogEntry) -> type[Network]:
    if entry.model not in _NETWORKS:
        raise ValueError(
            f"The catalogue entry '{entry.name}' asks for a model '{entry.model}'; this version has "
            f"{', '.join(_NETWORKS)}."
        )
    return _NETWORKS[entry.model]
