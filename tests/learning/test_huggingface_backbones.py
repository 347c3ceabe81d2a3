from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from whale_ray.errors import EncoderError
from whale_ray.learning.encoders.registry import build_encoder, rebuild_encoder
from whale_ray.learning.training.optim import layer_blocks

import whale_ray.learning.encoders.backbones._torchvision_compat  # noqa: F401  # isort: skip
import transformers  # isort: skip

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def vit() -> transformers.PreTrainedModel:
    config = transformers.ViTConfig(**SMALL, intermediate_size=64, image_size=32, patch_size=8)
    return transformers.ViTForImageClassification(config)


def dinov2() -> transformers.PreTrainedModel:
    return transformers.Dinov2Model(transformers.Dinov2Config(**SMALL, mlp_ratio=2, image_size=56, patch_size=14))


def swin() -> transformers.PreTrainedModel:
    sizes = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "image_size": 32, "window_size": 4}
    return transformers.SwinModel(transformers.SwinConfig(**sizes, patch_size=4))


def convnext() -> transformers.PreTrainedModel:
    return transformers.ConvNextModel(transformers.ConvNextConfig(hidden_sizes=[8, 8, 16, 32], depths=[1, 1, 1, 1]))


MODELS = {"vit": vit, "dinov2": dinov2, "swin": swin, "convnext": convnext}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    for name, make in MODELS.items():
        torch.manual_seed(0)
        make().eval().save_pretrained(root / name)
    return root


def pictures(*size: int) -> torch.Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))


def baseline(folder: Path, name: str, **options: object) -> object:
    options = {"image_size": (64, 64), "embedding_size": None, "neck": "none", **options}
    return build_encoder(f"hf:{folder / name}", **options).eval()


@pytest.mark.integration
@pytest.mark.parametrize("size", [(64, 64), (32, 64), (60, 36)])
@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_encodes_pictures_of_any_shape_and_is_rebuilt(
    folder: Path, name: str, size: tuple[int, int]
) -> None:
    encoder = build_encoder(f"hf:{folder / name}", embedding_size=8, image_size=size).eval()
    again = rebuild_encoder(json.loads(json.dumps(encoder.recipe))).eval()
    again.load_state_dict(encoder.state_dict())
    assert encoder(pictures(*size)).shape == (2, 8)
    assert torch.equal(encoder(pictures(*size)), again(pictures(*size)))


@pytest.mark.parametrize("name", ["vit", "dinov2"])
def test_the_class_token_is_what_the_model_itself_gives(folder: Path, name: str) -> None:
    encoder = baseline(folder, name)
    model = transformers.AutoModel.from_pretrained(folder / name).eval()
    options = {"interpolate_pos_encoding": True} if name == "vit" else {}
    inputs = (pictures(64, 64) - encoder.mean) / encoder.std
    expected = model(pixel_values=inputs, **options).last_hidden_state[:, 0]
    torch.testing.assert_close(encoder(pictures(64, 64)), expected)
    assert encoder.recipe["pool"] == "cls"


def test_avg_leaves_the_class_token_out(folder: Path) -> None:
    encoder = baseline(folder, "vit", pool="avg")
    tokens = encoder.trunk((pictures(64, 64) - encoder.mean) / encoder.std)
    assert tokens.shape == (2, 1 + 8 * 8, 32)
    torch.testing.assert_close(encoder(pictures(64, 64)), tokens[:, 1:].mean(1))


@pytest.mark.parametrize("name", ["swin", "convnext"])
def test_a_model_without_class_token_gives_its_own_pooled_output(folder: Path, name: str) -> None:
    encoder = baseline(folder, name, image_size=(32, 32))
    model = transformers.AutoModel.from_pretrained(folder / name).eval()
    inputs = (pictures(32, 32) - encoder.mean) / encoder.std
    torch.testing.assert_close(encoder(pictures(32, 32)), model(pixel_values=inputs).pooler_output)
    with pytest.raises(EncoderError, match="has no class token"):
        baseline(folder, name, pool="cls")


def test_pictures_are_normalised_as_the_models_own_preprocessor_says(folder: Path, tmp_path: Path) -> None:
    vit().save_pretrained(tmp_path)
    written = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
    encoder = build_encoder(f"hf:{tmp_path}", embedding_size=8, image_size=(32, 32))
    assert encoder.recipe["mean"] == pytest.approx([0.1, 0.2, 0.3])
    assert encoder.recipe["std"] == pytest.approx([0.5, 0.6, 0.7])
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    raw = torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8)
    expected = processor(raw, return_tensors="pt").pixel_values
    torch.testing.assert_close((raw[None] / 255 - encoder.mean) / encoder.std, expected, atol=1e-5, rtol=1e-5)


def test_a_model_without_preprocessor_uses_imagenet_statistics_and_records_it(folder: Path) -> None:
    recipe = baseline(folder, "vit").recipe
    assert recipe["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert recipe["preprocessing"].startswith("ImageNet")


def test_random_weights_take_the_config_alone(folder: Path) -> None:
    pretrained, random = baseline(folder, "vit"), baseline(folder, "vit", weights="random")
    assert pretrained.recipe["config"] == random.recipe["config"]
    assert not torch.equal(pretrained(pictures(64, 64)), random(pictures(64, 64)))


def test_weights_from_a_file_must_fit_the_config(folder: Path, tmp_path: Path) -> None:
    model = transformers.AutoModel.from_pretrained(folder / "dinov2")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    encoder = baseline(folder, "dinov2", weights=str(tmp_path / "w.pth"))
    assert torch.equal(encoder(pictures(64, 64)), baseline(folder, "dinov2")(pictures(64, 64)))
    with pytest.raises(EncoderError, match=r"do not fit hf:.*missing.*not known"):
        baseline(folder, "vit", weights=str(tmp_path / "w.pth"))


def test_a_folder_whose_weights_lack_tensors_is_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "dinov2" / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "layer.1." not in k}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "dinov2" / "config.json").read_text())
    with pytest.raises(EncoderError, match=r"lack .* tensors of its own config"):
        build_encoder(f"hf:{tmp_path}", embedding_size=8, image_size=(56, 56))


def test_a_language_model_is_refused(tmp_path: Path) -> None:
    config = transformers.BertConfig(**SMALL, intermediate_size=64, vocab_size=50)
    transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match="must take pictures, but BertModel does not"):
        build_encoder(f"hf:{tmp_path}", embedding_size=8)


def test_remote_code_of_a_model_is_not_executed(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    settings = {"model_type": "foreign", "auto_map": {"AutoConfig": "code.C", "AutoModel": "code.M"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(EncoderError, match="cannot be loaded"):
        build_encoder(f"hf:{tmp_path}", embedding_size=8)
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_is_not_there_and_one_that_is_empty_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="there is no such folder"):
        build_encoder(f"hf:{tmp_path / 'nowhere'}", embedding_size=8)
    with pytest.raises(EncoderError, match="cannot be loaded"):
        build_encoder(f"hf:{tmp_path}", embedding_size=8)


def test_an_unreachable_hub_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(EncoderError, match=r"cannot be reached.*hf download nobody/nothing --local-dir DIR"):
        build_encoder("hf:nobody/nothing", embedding_size=8)


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("vit", 3), ("dinov2", 3), ("swin", 3), ("convnext", 5)],
    ids=["vit", "dinov2", "swin", "convnext"],
)
def test_the_blocks_of_a_hub_model_are_its_embeddings_and_layers(folder: Path, name: str, blocks: int) -> None:
    trunk = build_encoder(f"hf:{folder / name}", embedding_size=8, image_size=(64, 64)).trunk
    names = {id(parameter): key for key, parameter in trunk.named_parameters()}
    first, *layers = [{names[id(parameter)] for parameter in block} for block in layer_blocks(trunk)]
    assert all("embeddings." in key for key in first)
    assert len(layers) == blocks - 1
    for place, block in enumerate(layers):
        inside = [key for key in block if f".{place}." in key]
        assert inside
        assert all("norm" in key for key in block - set(inside))  # only what follows the last layer
        assert block == set(inside) or block is layers[-1]


def saved(root: Path, model: transformers.PreTrainedModel, **processor: object) -> str:
    model.save_pretrained(root)
    if processor:
        (root / "preprocessor_config.json").write_text(json.dumps(processor))
    return f"hf:{root}"


@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
def test_a_masked_autoencoder_sees_every_patch_in_order(tmp_path: Path, size: tuple[int, int]) -> None:
    config = transformers.ViTMAEConfig(**SMALL, intermediate_size=64, image_size=32, patch_size=8, mask_ratio=0.75)
    name = saved(tmp_path, transformers.ViTMAEModel(config))
    encoder = build_encoder(name, embedding_size=8, image_size=size).eval()
    again = rebuild_encoder(json.loads(json.dumps(encoder.recipe))).eval()
    again.load_state_dict(encoder.state_dict())
    assert encoder.recipe["config"]["mask_ratio"] == 0
    assert encoder.trunk((pictures(*size) - encoder.mean) / encoder.std).shape[1] == 1 + size[0] // 8 * (size[1] // 8)
    for other in (encoder, again):
        assert torch.equal(other(pictures(*size)), encoder(pictures(*size)))


def test_channels_in_opencv_order_are_in_the_recipe_and_in_the_rebuilt_encoder(tmp_path: Path) -> None:
    kind = {"image_processor_type": "MobileViTImageProcessor"}
    encoder = build_encoder(saved(tmp_path, vit(), **kind), embedding_size=8, image_size=(32, 32)).eval()
    plain = build_encoder(
        saved(tmp_path, vit(), **kind, do_flip_channel_order=False), embedding_size=8, image_size=(32, 32)
    ).eval()
    again = rebuild_encoder(json.loads(json.dumps(encoder.recipe))).eval()
    for other in (plain, again):
        other.load_state_dict(encoder.state_dict())
    seen = pictures(32, 32)
    assert encoder.recipe["channels"] == "BGR"
    assert "channels" not in plain.recipe
    assert torch.equal(encoder(seen), plain(seen.flip(1)))
    assert torch.equal(encoder(seen), again(seen))


def test_a_gray_model_is_given_gray_pictures(tmp_path: Path) -> None:
    config = transformers.ViTConfig(**SMALL, intermediate_size=64, image_size=32, patch_size=8, num_channels=1)
    kind = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.4], "image_std": [0.2]}
    name = saved(tmp_path, transformers.ViTModel(config), **kind)
    encoder = build_encoder(name, embedding_size=None, neck="none", image_size=(32, 32)).eval()
    again = rebuild_encoder(json.loads(json.dumps(encoder.recipe))).eval()
    again.load_state_dict(encoder.state_dict())
    seen = pictures(32, 32)
    gray = (seen * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    expected = transformers.AutoModel.from_pretrained(tmp_path).eval()(pixel_values=(gray - 0.4) / 0.2)
    torch.testing.assert_close(encoder(seen), expected.last_hidden_state[:, 0])
    assert torch.equal(encoder(seen), again(seen))


@pytest.mark.parametrize("size", [(64, 64), (32, 64)])
def test_a_model_whose_code_fails_at_this_size_is_one_message_with_the_size_that_passes(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    config = transformers.ViTConfig(**SMALL, intermediate_size=64, image_size=[32, 64], patch_size=[8, 16])
    name = saved(tmp_path, transformers.ViTModel(config))
    if size == (32, 64):
        assert build_encoder(name, embedding_size=8, image_size=size).embedding_size == 8
        return
    with pytest.raises(
        EncoderError, match=r"cannot take pictures of 64x64: TypeError: .*data.image_size, such as 32x64"
    ):
        build_encoder(name, embedding_size=8, image_size=size)


@pytest.mark.parametrize(
    ("field", "value"), [("hidden_size", "32"), ("num_attention_heads", 0), ("hidden_act", 3), ("patch_size", "8")]
)
def test_a_config_that_the_model_code_cannot_use_is_one_message(tmp_path: Path, field: str, value: object) -> None:
    name = saved(tmp_path, vit())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(EncoderError, match=r"hf:.* (cannot be|fails).*Error: "):
        build_encoder(name, embedding_size=8, image_size=(32, 32))


def test_a_processor_of_unknown_class_is_read_by_its_fields_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    kind = {"image_processor_type": "OurImageProcessor", "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5]}
    name = saved(tmp_path, vit(), **kind)
    assert build_encoder(name, embedding_size=8, image_size=(32, 32)).recipe["mean"] == pytest.approx([0.1, 0.2, 0.3])
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(EncoderError, match=r"cannot be loaded.*preprocessor_config.json"):
        build_encoder(name, embedding_size=8, image_size=(32, 32))
