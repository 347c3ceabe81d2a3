import numpy as np
import pytest

from whale_ray.errors import InputError
from whale_ray.retrieval.evaluation.evaluate import RetrievalSetting, distinct_settings, evaluate, score_setting
from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.retrieval.search.whitening import fit_whitening


def photographs(individuals=40, images=4, size=24, seed=0):
    """Individuals that differ in a few weak directions, under loud ones in which each one's photographs differ."""
    random = np.random.default_rng(seed)
    loud = np.r_[np.full(6, 3.0), np.full(size - 6, 0.3)]
    who = np.repeat(np.arange(individuals), images)
    vectors = 0.6 * random.normal(size=(individuals, size))[who] + loud * random.normal(size=(len(who), size))
    names = np.array([f"w_{place:02d}" for place in who])
    names[:8] = "new_whale"
    return normalize_rows(vectors).astype(np.float16), names


def test_pca_whitening_equals_scikit_learn_apart_from_shrinkage():
    from sklearn.decomposition import PCA

    vectors, names = photographs()
    precise = normalize_rows(vectors).astype(np.float64)
    fitted = fit_whitening(vectors, names, kind="pca", unknown_label="new_whale").shortened(5)
    pca = PCA(5, svd_solver="full").fit(precise)
    total = precise.var(axis=0).mean()
    variances = pca.explained_variance_ * (len(vectors) - 1) / len(vectors)
    expected = (precise - pca.mean_) @ pca.components_.T / np.sqrt(variances + 0.2 * total)
    found = (precise - fitted.mean) @ fitted.matrix
    assert np.abs(found) == pytest.approx(np.abs(expected), abs=1e-9)


def test_learned_whitening_makes_within_individual_variance_equal_in_every_direction():
    vectors, names = photographs(individuals=400)
    fitted = fit_whitening(vectors, names, kind="learned", unknown_label="new_whale")
    moved = (normalize_rows(vectors).astype(np.float64) - fitted.mean) @ fitted.matrix
    named = names != "new_whale"
    around = np.concatenate([moved[names == name] - moved[names == name].mean(axis=0) for name in set(names[named])])
    before = normalize_rows(vectors).astype(np.float64)
    plain = np.concatenate([before[names == name] - before[names == name].mean(axis=0) for name in set(names[named])])
    spreads, earlier = (np.linalg.eigvalsh(rows.T @ rows / len(rows)) for rows in (around, plain))
    assert spreads.max() / spreads.min() < 0.2 * earlier.max() / earlier.min()
    assert (np.diff(moved.var(axis=0)) <= 1e-9).all()


def test_whitening_is_learned_on_training_photographs_alone():
    vectors, names = photographs()
    parts = np.where(np.arange(len(names)) % 4 == 3, "val", "train")
    spoilt = np.where((parts == "val")[:, None], np.float16(0.2), vectors)
    options = {"individuals": names, "parts": parts, "unknown_label": "new_whale"}
    from whale_ray.retrieval.transformed_vectors import TransformedVectors

    for whiten in ("pca", "learned"):
        view = RetrievalSetting(whiten=whiten, whitened_size=6).transform
        seen, other = (TransformedVectors({"plain": each}, **options).seen(view) for each in (vectors, spoilt))
        assert seen.shape == (len(names), 6)
        assert np.array_equal(seen[parts == "train"], other[parts == "train"])


def test_learned_whitening_finds_individuals_that_plain_cosines_confuse():
    vectors, names = photographs(individuals=120)
    parts = np.where(np.arange(len(names)) % 4 == 3, "val", "train")
    settings = distinct_settings(
        vote=["nearest"],
        neighbours=[1],
        temperature=[0.05],
        flip=["none"],
        whiten=["none", "pca", "learned"],
        whitened_size=[8, 24],
    )
    assert len(settings) == 5
    options = {"individuals": names, "parts": parts, "unknown_label": "new_whale"}
    evaluation = evaluate(
        {"plain": vectors}, settings=settings, images=np.arange(len(names)).astype(str), seed=0, **options
    )
    plain, learned = (
        score_setting({"plain": vectors}, setting=one, **options)["recall@1"] for one in (settings[0], settings[-1])
    )
    assert learned > plain + 0.1
    assert evaluation.best.whiten == "learned"
    assert evaluation.table["whiten"].tolist() == ["none", "pca", "pca", "learned", "learned"]


def whitened_by_covariances(vectors, names, kind):
    """Return the D x D whitening matrix by its textbook definition."""

    def shrunk(covariance):
        values, directions = np.linalg.eigh(covariance)
        return np.clip(values, 0, None) + 0.2 * np.clip(values, 0, None).mean(), directions

    centered = vectors - vectors.mean(axis=0)
    if kind == "pca":
        values, directions = shrunk(centered.T @ centered / len(vectors))
        return (directions / np.sqrt(values))[:, ::-1]
    named = [vectors[names == name] for name in set(names) - {"new_whale"}]
    around = np.concatenate([rows - rows.mean(axis=0) for rows in named])
    values, directions = shrunk(around.T @ around / len(around))
    white = directions / np.sqrt(values)
    return white @ np.linalg.eigh((centered @ white).T @ (centered @ white))[1][:, ::-1]


@pytest.mark.parametrize("kind", ["pca", "learned"])
@pytest.mark.parametrize("images", [10, 11, 12, 13])
def test_few_photographs_of_many_dimensions_are_whitened_as_by_the_whole_covariance(kind, images):
    size = 4 * 12
    vectors, names = photographs(individuals=4, images=images, size=size)
    others, _ = photographs(individuals=5, size=size, seed=1)
    every = np.concatenate([vectors, others])
    precise = normalize_rows(vectors).astype(np.float64)
    matrix = whitened_by_covariances(precise, names, kind)
    fitted = fit_whitening(vectors, names, kind=kind, unknown_label="new_whale")
    centered = normalize_rows(every).astype(np.float64) - precise.mean(axis=0)
    for dimensions in (3, 20, len(vectors) - 1, size, 1000):
        columns = matrix[:, :dimensions] if dimensions < len(vectors) else matrix
        expected = normalize_rows(centered @ columns, rounded=False)
        found = fitted.shortened(dimensions).apply(every).astype(np.float64)
        assert found @ found.T == pytest.approx(expected @ expected.T, abs=2e-3)
    dense = normalize_rows(centered @ fitted.dense_matrix(), rounded=False)
    whole = fitted.apply(every).astype(np.float64)
    assert dense @ dense.T == pytest.approx(whole @ whole.T, abs=2e-3)


@pytest.mark.parametrize("kind", ["pca", "learned"])
def test_whitening_of_wide_embeddings_makes_no_square_matrix(kind, monkeypatch):
    vectors, names = photographs(individuals=6, images=4, size=65_536)

    def refuse(*shape, **options):
        raise AssertionError("a D x D matrix of 65,536 dimensions has 34 GB")

    monkeypatch.setattr(np, "eye", refuse)
    decompose = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: decompose(matrix) if len(matrix) <= 24 else refuse())
    fitted = fit_whitening(vectors, names, kind=kind, unknown_label="new_whale")
    assert fitted.apply(vectors).shape == vectors.shape
    assert fitted.shortened(8).dense_matrix().shape == (65_536, 8)
    assert fitted.shortened(128).apply(vectors).shape == (24, 23)


def test_more_dimensions_than_available_keeps_all():
    vectors, names = photographs()
    fitted = fit_whitening(vectors, names, kind="learned", unknown_label="new_whale")
    assert fitted.shortened(1000).apply(vectors).shape == vectors.shape
    assert np.linalg.norm(normalize_rows(fitted.apply(vectors)), axis=1) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "names", "message"),
    [
        ("zca", ["a", "a"], "one of none, pca, learned, but got 'zca'"),
        ("pca", ["a"], "there are 1"),
        ("learned", ["a", "b"], "individuals with two training photographs"),
        ("learned", ["new_whale", "new_whale"], "individuals with two training photographs"),
    ],
)
def test_whitening_that_cannot_be_learned_is_refused_with_the_reason(kind, names, message):
    vectors = np.eye(2)[: len(names)]
    with pytest.raises(InputError, match=message):
        fit_whitening(vectors, np.array(names), kind=kind, unknown_label="new_whale")


def test_embeddings_that_are_all_the_same_stay_finite():
    whitened = fit_whitening(np.ones((6, 4)), np.array(list("aabbcc")), kind="learned", unknown_label="?").apply(
        np.ones((2, 4))
    )
    assert np.isfinite(whitened.astype(float)).all()
