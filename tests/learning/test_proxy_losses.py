import numpy as np
import pytest
import torch

from whale_ray.learning.losses.proxy_extraction import PROXY_LOSSES, class_proxies
from whale_ray.learning.losses.registry import LOSSES, build_loss


@pytest.mark.parametrize("name", LOSSES)
def test_losses_with_proxies_are_those_with_parameters(name):
    loss = build_loss(name, num_classes=4, embedding_size=6, class_counts=[5, 1, 2, 9])
    assert bool(list(loss.parameters())) == (name in PROXY_LOSSES)
    assert (class_proxies(loss, num_classes=4) is None) == (name not in PROXY_LOSSES)


@pytest.mark.parametrize("name", PROXY_LOSSES)
def test_photographs_at_the_proxies_of_their_individuals_cost_least(name):
    """Whatever a loss keeps its proxies as, they are returned in the order of the classes."""
    torch.manual_seed(0)
    loss = build_loss(name, num_classes=4, embedding_size=4, class_counts=[3, 3, 3, 3])
    vectors = torch.from_numpy(class_proxies(loss, num_classes=4)[:, 0].astype(np.float32))
    costs = [loss(vectors, torch.arange(4).roll(turn)).item() for turn in range(4)]
    assert costs[0] == min(costs)
    assert len(set(costs)) == 4


def test_several_centres_of_an_individual_stay_together():
    torch.manual_seed(0)
    loss = build_loss("subcenter_arcface", num_classes=3, embedding_size=5, sub_centers=2)
    found = class_proxies(loss, num_classes=3)
    assert found.shape == (3, 2, 5)
    assert found.dtype == np.float16
    weights = loss.loss.W.detach().numpy()
    for individual in range(3):
        own = weights[:, 2 * individual : 2 * individual + 2].T
        np.testing.assert_allclose(found[individual], own / np.linalg.norm(own, axis=1, keepdims=True), atol=1e-3)
