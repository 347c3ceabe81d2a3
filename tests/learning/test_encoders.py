from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from whale_ray.errors import EncoderError
from whale_ray.learning.encoders.backbone_families import ENCODERS, check_encoder_name
from whale_ray.learning.encoders.registry import build_encoder, rebuild_encoder

import whale_ray.learning.encoders.backbones._torchvision_compat  # noqa: F401  # isort: skip
from torchvision import models  # isort: skip

SMALL = (64, 64)
SHIPPED = Path("/work/shared/data/weights")


def tiny(**options: object) -> object:
    return build_encoder("tiny", **{"embedding_size": 32, "image_size": SMALL, **options})


def pictures(*size: int) -> torch.Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.integration
def test_the_table_of_families_is_read_without_model_libraries() -> None:
    code = "import sys, whale_ray.learning.encoders.backbone_families as e; print(sorted(e.ENCODERS)); "
    code += "sys.exit(bool({'torchvision', 'transformers', 'timm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(sorted(ENCODERS)) == "['hf', 'timm', 'tiny', 'torchvision']"


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (33, 50)])
@pytest.mark.parametrize("neck", ["linear", "bnneck"])
@pytest.mark.parametrize("pool", ["auto", "avg", "gem"])
def test_tiny_gives_an_embedding_of_the_size_asked_for(size: tuple[int, int], neck: str, pool: str) -> None:
    encoder = tiny(pool=pool, neck=neck, image_size=size)
    assert encoder(pictures(*size)).shape == (2, 32)
    assert encoder.embedding_size == 32


def test_tiny_is_small() -> None:
    assert 100_000 < sum(p.numel() for p in tiny().parameters()) < 400_000


def test_pictures_are_normalised_by_the_encoder_itself() -> None:
    encoder = tiny(neck="none", embedding_size=None).eval()
    seen = []
    encoder.trunk.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    encoder(torch.stack([torch.zeros(3, 64, 64), torch.ones(3, 64, 64)]))
    expected = [[-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]]
    torch.testing.assert_close(seen[0][:, :, 5, 7], torch.tensor(expected))


def test_gem_with_power_one_is_the_mean_of_what_is_positive() -> None:
    encoder = tiny(neck="none", embedding_size=None, pool="gem").eval()
    encoder.head.pool.power.data.fill_(1.0)
    mean = tiny(neck="none", embedding_size=None, pool="avg").eval()
    mean.trunk.load_state_dict(encoder.trunk.state_dict())
    torch.testing.assert_close(encoder(pictures(64, 64)), mean(pictures(64, 64)), atol=2e-6, rtol=1e-5)


def test_bnneck_normalises_over_the_batch_and_has_no_shift_to_learn() -> None:
    encoder = tiny(neck="bnneck")
    embeddings = encoder(torch.rand(16, 3, 64, 64))
    torch.testing.assert_close(embeddings.mean(0), torch.zeros(32), atol=1e-5, rtol=0)
    torch.testing.assert_close(embeddings.var(0, unbiased=False), torch.ones(32), atol=0.05, rtol=0)
    assert not encoder.head.neck[1].bias.requires_grad


@pytest.mark.parametrize("name", ["tiny", "torchvision:shufflenet_v2_x0_5"])
@pytest.mark.parametrize("neck", ["linear", "bnneck"])
def test_an_encoder_is_rebuilt_from_its_recipe_written_as_json(name: str, neck: str) -> None:
    options = {"weights": "random", "image_size": SMALL, "neck": neck, "pool": "gem"}
    encoder = build_encoder(name, embedding_size=16, **options).eval()
    again = rebuild_encoder(json.loads(json.dumps(encoder.recipe))).eval()
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(encoder(pictures(*SMALL)), again(pictures(*SMALL)))
    assert again.recipe == encoder.recipe


def test_a_frozen_trunk_stays_as_it_is_while_the_head_trains() -> None:
    encoder = tiny(freeze="trunk", neck="bnneck").train()
    before = {key: value.clone() for key, value in encoder.trunk.state_dict().items()}
    encoder(pictures(64, 64)).square().sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in encoder.trunk.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.trunk.parameters())
    assert encoder.head.neck[0].weight.grad is not None
    assert encoder.head.training
    assert not any(layer.training for layer in encoder.trunk.modules())


def test_the_baseline_returns_the_pooled_features() -> None:
    encoder = tiny(neck="none", embedding_size=None, pool="avg").eval()
    features = encoder.trunk((pictures(64, 64) - encoder.mean) / encoder.std)
    assert torch.equal(encoder(pictures(64, 64)), features.mean((2, 3)))
    assert encoder.embedding_size == features.shape[1] == 128


def _before_the_classifier(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    part = next(getattr(model, name) for name in ("fc", "classifier", "heads", "head") if hasattr(model, name))
    part.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(images)
    return seen[0]


FAST = ["resnet18", "mobilenet_v2", "squeezenet1_1"]
SLOW = ["mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5", "regnet_y_400mf", "efficientnet_b0", "densenet121"]
SLOW += [
    "googlenet",
    "convnext_tiny",
    "swin_t",
    "swin_v2_t",
    "vit_b_32",
    "inception_v3",
    "alexnet",
    "vgg11_bn",
    "maxvit_t",
]


@pytest.mark.parametrize("name", FAST + [pytest.param(name, marks=pytest.mark.slow) for name in SLOW])
def test_a_backbone_returns_the_input_of_the_models_classifier(name: str, tmp_path: Path) -> None:
    size = (224, 224) if name in ("alexnet", "vgg11_bn", "maxvit_t", "vit_b_32") else (96, 96)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = models.get_model(name, weights=None, num_classes=7, **options).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    encoder = build_encoder(
        f"torchvision:{name}",
        embedding_size=None,
        neck="none",
        weights=str(tmp_path / "w.safetensors"),
        image_size=size,
    ).eval()
    with torch.no_grad():
        features, wanted = encoder.trunk(pictures(*size)), _before_the_classifier(model, pictures(*size))
    forms = [features.flatten(1), features[:, 0]] + ([features.mean((2, 3))] if features.ndim == 4 else [])
    same = [form for form in forms if form.numel() == wanted.numel()]
    assert any(torch.allclose(form, wanted.reshape(form.shape), atol=1e-4, rtol=1e-4) for form in same)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_tiny", "maxvit_t"])
def test_a_normalisation_after_the_pooling_is_kept(name: str, tmp_path: Path) -> None:
    model = models.get_model(name, weights=None).eval()
    norm = next(layer for layer in model.classifier if isinstance(layer, nn.LayerNorm))
    nn.init.normal_(norm.weight)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    options = {"embedding_size": None, "neck": "none", "weights": str(tmp_path / "w.pth")}
    encoder = build_encoder(f"torchvision:{name}", **options).eval()
    seen: list[torch.Tensor] = []
    norm.register_forward_hook(lambda _, args, out: seen.append(out.flatten(1)))
    with torch.no_grad():
        model((pictures(224, 224) - encoder.mean) / encoder.std)
        torch.testing.assert_close(encoder(pictures(224, 224)), seen[0], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_every_torchvision_classifier_is_stripped_of_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, which has shapes only: no weights are drawn. RegNets compute their widths with tensors."""
    from whale_ray.learning.encoders.backbones.torchvision_backbones import torchvision_names

    for draw in [name for name in vars(nn.init) if name.endswith("_") and not name.startswith("_")]:
        monkeypatch.setattr(nn.init, draw, lambda tensor, *_, **__: tensor)
    monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda layer, maps: maps)  # half of the time on the meta device
    monkeypatch.setattr("whale_ray.learning.encoders.registry.check_embeddings", lambda *_, **__: None)
    names = [name for name in torchvision_names() if not name.endswith(("128gf", "32gf"))]
    assert len(names) > 75
    for name in names:
        size = (224, 224) if name == "maxvit_t" else (112, 112) if name == "vit_h_14" else (96, 96)
        options = {"weights": "random", "image_size": size}
        with torch.device("cpu" if name.startswith("regnet") else "meta"):
            encoder = build_encoder(f"torchvision:{name}", embedding_size=None, neck="none", **options)
        head = [layer for layer in encoder.modules() if isinstance(layer, nn.Linear) and layer.out_features == 1000]
        assert encoder.embedding_size >= 200, name
        assert not head, name


@pytest.mark.slow
def test_a_vit_takes_pictures_that_are_not_square(tmp_path: Path) -> None:
    torch.save(models.vit_b_32(weights=None).state_dict(), tmp_path / "w.pth")
    options = {"embedding_size": 8, "weights": str(tmp_path / "w.pth"), "image_size": (64, 128)}
    encoder = build_encoder("torchvision:vit_b_32", **options).eval()
    assert encoder(pictures(64, 128)).shape == (2, 8)
    assert encoder.trunk.body.encoder.pos_embedding.shape[1] == 1 + 2 * 4
    again = rebuild_encoder(encoder.recipe).eval()
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(pictures(64, 128)), encoder(pictures(64, 128)))


@pytest.mark.slow
def test_avg_over_tokens_leaves_the_class_token_out() -> None:
    options = {"weights": "random", "image_size": (64, 64), "neck": "none", "pool": "avg"}
    encoder = build_encoder("torchvision:vit_b_32", embedding_size=None, **options).eval()
    tokens = encoder.trunk((pictures(64, 64) - encoder.mean) / encoder.std)
    torch.testing.assert_close(encoder(pictures(64, 64)), tokens[:, 1:].mean(1))


@pytest.mark.slow
@pytest.mark.skipif(not SHIPPED.is_dir(), reason="the measuring data is not on this machine")
@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.pth")), ids=lambda path: path.stem)
def test_imagenet_weights_from_a_file_load_strictly(file: Path) -> None:
    name = file.name.partition("_imagenet")[0]
    encoder = build_encoder(f"torchvision:{name}", embedding_size=None, neck="none", weights=str(file))
    stored = torch.load(file, weights_only=True)
    held = {key.removeprefix("body."): value for key, value in encoder.trunk.state_dict().items()}
    assert held
    assert all(torch.equal(value, stored[key]) for key, value in held.items())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "Did you mean `torchvision:resnet18`"),
        ("torchvison:resnet18", "Did you mean `torchvision:resnet18`"),
        ("torchvision:resnet19", "Did you mean .*resnet18"),
        ("tinny", "Did you mean `tiny`"),
        ("tiny:big", "an encoder is tiny or torchvision:NAME, hf:NAME or timm:NAME"),
        ("torchvision:", "an encoder is tiny"),
        ("hf:", "an encoder is tiny"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_name(name: str, message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        check_encoder_name(name)
    with pytest.raises(EncoderError, match=message):
        build_encoder(name, embedding_size=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "cls"}, "tiny has no class token"),
        ({"pool": "max"}, "model.pool must be one of auto, avg, gem, cls, but got 'max'"),
        ({"neck": "mlp"}, "model.neck must be one of"),
        ({"freeze": "head"}, "model.freeze must be one of"),
        ({"neck": "none"}, "returns the 128 features of tiny, but embedding_size is 32"),
        ({"weights": "nowhere.pth"}, "there is no nowhere.pth"),
    ],
)
def test_an_invalid_option_is_refused_with_the_valid_values(options: dict[str, str], message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        tiny(**options)


def test_images_that_are_too_small_are_refused_when_the_encoder_is_built() -> None:
    with pytest.raises(EncoderError, match=r"torchvision:alexnet cannot take pictures of 16x16.*data.image_size"):
        build_encoder("torchvision:alexnet", embedding_size=8, weights="random", image_size=(16, 16))


def test_weights_that_do_not_fit_name_the_tensors(tmp_path: Path) -> None:
    tensors = models.squeezenet1_1(weights=None).state_dict()
    tensors["features.0.weight"] = torch.zeros(64, 1, 3, 3)
    tensors["extra"] = tensors.pop("features.0.bias")
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(EncoderError) as caught:
        build_encoder("torchvision:squeezenet1_1", embedding_size=8, weights=str(tmp_path / "w.pth"))
    assert "1 missing (features.0.bias); 1 not known (extra)" in str(caught.value)
    assert "features.0.weight is (64, 1, 3, 3) instead of (64, 3, 3, 3)" in str(caught.value)


def test_a_file_without_tensors_is_refused_and_not_executed(tmp_path: Path) -> None:
    torch.save({"a": print}, tmp_path / "code.pth")
    (tmp_path / "text.safetensors").write_text("no tensors")
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    for name in ("code.pth", "text.safetensors", "numbers.pth"):
        with pytest.raises(EncoderError, match=rf"{name}.*torch.save\(model.state_dict\(\)"):
            tiny(weights=str(tmp_path / name))


def test_wrapped_and_data_parallel_weights_are_unwrapped(tmp_path: Path) -> None:
    source = tiny()
    tensors = source.trunk.body.state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in tensors.items()}, "epoch": 3}, tmp_path / "w.pth")
    loaded = tiny(weights=str(tmp_path / "w.pth"))
    assert all(torch.equal(v, tensors[k]) for k, v in loaded.trunk.body.state_dict().items())


def test_pretrained_weights_without_a_network_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    with pytest.raises(EncoderError, match=r"torchvision:resnet18 cannot be fetched.*model.weights: random"):
        build_encoder("torchvision:resnet18", embedding_size=8)


def test_the_state_of_an_encoder_holds_plain_tensors(tmp_path: Path) -> None:
    save_file(tiny(neck="bnneck").state_dict(), tmp_path / "e.safetensors")
    assert set(load_file(tmp_path / "e.safetensors")) == set(tiny(neck="bnneck").state_dict())


@pytest.mark.parametrize(("name", "channels"), [("tiny", [128, 64, 48]), ("torchvision:resnet18", [512, 256, 128])])
def test_several_layers_are_pooled_and_joined_the_last_first(name: str, channels: list[int]) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(
        name, embedding_size=None, neck="none", weights="random", freeze="trunk", layers=3, image_size=(64, 96)
    )
    pictures = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        features = encoder.eval()(pictures)
        parts = features.split(channels, dim=1)
        last = encoder.trunk.body((pictures - encoder.mean) / encoder.std).mean((2, 3))
    assert features.shape == (2, sum(channels)) == (2, encoder.embedding_size)
    torch.testing.assert_close(parts[0], torch.nn.functional.normalize(last))
    torch.testing.assert_close(torch.stack([part.norm(dim=1) for part in parts]), torch.ones(3, 2))
    again = rebuild_encoder(encoder.recipe)
    again.load_state_dict(encoder.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(again.eval()(pictures), features)


def test_more_layers_than_there_are_and_trunks_that_are_no_chain_are_refused() -> None:
    with pytest.raises(EncoderError, match=r"`model.layers: 8` joins the last maps of 8 sizes, but tiny gives 4"):
        build_encoder("tiny", embedding_size=8, layers=8, image_size=(64, 64))
    with pytest.raises(EncoderError, match=r"`model.layers: 2` .* but torchvision:vit_b_32 gives 1"):
        build_encoder("torchvision:vit_b_32", embedding_size=8, weights="random", layers=2, image_size=(64, 64))
