import numpy as np
import pytest
import torch
from torch import nn

from whale_ray.data.image_io import Geometry
from whale_ray.errors import TrainingError
from whale_ray.learning.encoders.registry import build_encoder
from whale_ray.retrieval.embed import embed

GEOMETRY = Geometry(height=32, width=48, margin=0.125)


def draw(images=7):
    return np.random.default_rng(0).integers(0, 256, (images, 40, 60, 3), dtype=np.uint8)


class Pixels(nn.Module):
    """Gives the pixels themselves, so that a test can see what the encoder saw."""

    embedding_size = 3 * 32 * 48

    def forward(self, images):
        return images.flatten(1)


def tiny():
    torch.manual_seed(0)
    return build_encoder("tiny", embedding_size=16, image_size=(32, 48), weights="random")


@pytest.mark.parametrize("flipped", [False, True])
def test_the_encoder_sees_centre_crops_between_zero_and_one_in_the_order_of_the_rows(flipped):
    array, rows = draw(), np.array([5, 0, 3])
    found = embed(Pixels(), array, GEOMETRY, rows, flipped=flipped, batch_size=2)
    crops = array[rows][:, 4:36, 6:54].astype(np.float64) / 255
    crops = (crops[:, :, ::-1] if flipped else crops).transpose(0, 3, 1, 2).reshape(3, -1)
    np.testing.assert_allclose(found, crops / np.linalg.norm(crops, axis=1, keepdims=True), atol=1e-4)
    assert found.dtype == np.float16


def test_vectors_have_unit_length_and_do_not_depend_on_the_batch():
    one, many = (embed(tiny(), draw(), GEOMETRY, np.arange(7), batch_size=size) for size in (1, 7))
    np.testing.assert_allclose(np.linalg.norm(one.astype(np.float64), axis=1), 1.0, atol=1e-3)
    np.testing.assert_allclose(one.astype(np.float64), many.astype(np.float64), atol=2e-3)


class NumberFormats(nn.Module):
    """Records the number format of its input and of a product of it."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images):
        product = images.flatten(1) @ images.flatten(1).T
        self.seen += [images.dtype, product.dtype]
        return product


@pytest.mark.parametrize("flipped", [False, True])
def test_embeddings_are_computed_in_float32(flipped):
    encoder = NumberFormats()
    embed(encoder, draw(), GEOMETRY, np.arange(7), flipped=flipped)
    assert set(encoder.seen) == {torch.float32}


def test_embedding_keeps_the_train_and_eval_modes_of_the_encoder():
    encoder = nn.Sequential(nn.BatchNorm2d(3), Pixels())
    encoder.train()
    encoder[0].eval()
    embed(encoder, draw(), GEOMETRY, np.arange(3))
    assert (encoder.training, encoder[0].training, encoder[1].training) == (True, False, True)
    assert encoder[0].num_batches_tracked == 0


def test_a_memory_map_that_cannot_be_written_is_read(tmp_path):
    np.save(tmp_path / "pixels.npy", draw())
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    assert embed(Pixels(), mapped, GEOMETRY, np.arange(7)).shape == (7, Pixels.embedding_size)


def test_no_rows_give_no_vectors():
    assert embed(tiny(), draw(), GEOMETRY, np.array([], dtype=int)).shape == (0, 16)


def test_a_vector_that_is_not_finite_fails_the_trial():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 48, 4))
    nn.init.constant_(encoder[1].weight, float("nan"))
    with pytest.raises(TrainingError, match="an embedding must be finite"):
        embed(encoder, draw(), GEOMETRY, np.arange(2))
