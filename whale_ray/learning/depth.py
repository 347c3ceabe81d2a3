"""How deep in a trunk each of its parameters lies; knows how networks are stacked, no network by name.

A trunk's main chain is its largest `Sequential` or `ModuleList`: torchvision's stages, the layers of a
transformer. What comes before the chain (embeddings, class token) is a block of its own, what follows it (the last
normalisation) belongs to the last block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

# A chain of which one link holds more than this is only the wrapping of that link's own chain.
_NEARLY_ALL = 0.9


def blocks_of(trunk: nn.Module) -> list[list[nn.Parameter]]:
    """Return the parameters of a trunk, block after block from the picture upwards, each of them once."""
    links = _links(_main_chain(trunk))
    blocks: list[list[nn.Parameter]] = [[] for _ in range(len(links) + 1)]
    place = {id(parameter): depth for depth, link in enumerate(links, 1) for parameter in link}
    deepest = 0
    for parameter in trunk.parameters():
        deepest = max(deepest, place.get(id(parameter), 0))
        blocks[place.get(id(parameter), deepest and len(links))].append(parameter)
    return [block for block in blocks if block]


def _main_chain(trunk: nn.Module) -> nn.Module | None:
    found = max(_chains(trunk), key=_size, default=None)
    while found is not None:
        largest = max(found.children(), key=_size)
        inner = max(_chains(largest), key=_size, default=None)
        if inner is None or _size(inner) < _NEARLY_ALL * _size(found):
            return found
        found = inner
    return None


def _chains(module: nn.Module) -> Iterator[nn.Module]:
    """The containers inside a module, outermost first, in which two links or more follow each other."""
    for part in module.modules():
        if isinstance(part, (nn.Sequential, nn.ModuleList)) and len(_links(part)) > 1:
            yield part


def _links(chain: nn.Module | None) -> list[list[nn.Parameter]]:
    """The parameters of each link; one without a matrix or kernel (a normalisation) belongs to the link before."""
    links: list[list[nn.Parameter]] = []
    for child in chain.children() if chain is not None else ():
        own = list(child.parameters())
        if links and not _weighs(own):
            links[-1] += own
        elif own:
            links.append(own)
    return links


def _weighs(parameters: Iterable[nn.Parameter]) -> bool:
    return any(parameter.ndim > 1 for parameter in parameters)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
