"""Report: correct in every state of a sweep, self-contained, and escaped."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from whale_ray.data.catalog import Catalog
from whale_ray.errors import InputError
from whale_ray.retrieval.evaluation.evaluate import Evaluation, distinct_settings, evaluate
from whale_ray.sweep.analysis.trial_comparison import compare_trials
from whale_ray.sweep.config.sweep_spec import Sweep, load_sweep
from whale_ray.sweep.report.example_matches import find_examples
from whale_ray.sweep.report.page import write_report
from whale_ray.sweep.report.plots.objective_plots import plot_effects
from whale_ray.sweep.report.plots.scale import Scale, scale_of
from whale_ray.sweep.report.plots.svg import Curve, Row, plot_curves, plot_rows
from whale_ray.sweep.report.tables.open_set_table import trust_scores
from whale_ray.sweep.report.thumbnails import Photographs
from whale_ray.sweep.run_folder.leaderboard import leaderboard
from whale_ray.sweep.run_folder.records import read_record, read_records, write_record, write_result

pytestmark = pytest.mark.integration

SWEEP = """
name: flukes
data: {root: ROOT, image_size: 64}
model: {encoder: tiny, embedding_size: [16, 32]}
loss:
  - {name: arcface, scale: [16, 64]}
  - {name: proxy_anchor}
train: {epochs: 4, learning_rate: {low: 1.0e-5, high: 1.0e-2, log: true}}
retrieval: {vote: [nearest, softmax], neighbours: [1, 5]}
search: {strategy: random, trials: 6}
"""
UNKNOWN = "new_whale"
NASTY = 'Old <script>alert("1")</script> & "Scar"'


@dataclass(frozen=True)
class Run:
    """A run folder in the making, with the photographs that its sweep names."""

    folder: Path
    sweep: Sweep
    table: pd.DataFrame

    def begin(self, trial: str, point: dict[str, Any], *, kind: str = "trial") -> Path:
        """A trial that has begun."""
        folder = self.folder / "trials" / trial
        settings = self.sweep.settings(self._whole(point))
        write_record(folder, kind=kind, point=point, settings=settings, data_fingerprint="0" * 16)
        return folder

    def _whole(self, point: dict[str, Any]) -> dict[str, Any]:
        first = {"model.embedding_size": 16, "loss.name": "proxy_anchor", "train.learning_rate": 1e-3}
        return first | point

    def learn(self, folder: Path, *, epochs: int = 4, best: float = 0.6) -> None:
        """epochs.csv of a training that comes nearer to `best`."""
        rows = [
            {"epoch": epoch, "loss": 5 * math.exp(-epoch / 3), "recall@1": best * (1 - math.exp(-epoch / 2))}
            for epoch in range(1, epochs + 1)
        ]
        pd.DataFrame(rows).to_csv(folder / "epochs.csv", index=False)

    def finish(self, folder: Path, *, noise: float, seed: int = 0, epochs: int = 4, **scores: Any) -> None:
        """What a finished trial leaves; the more noise, the worse its embeddings tell individuals apart."""
        table, random = self.table, np.random.default_rng(seed)
        names = table["individual"].where(table["individual"] != UNKNOWN, table["image"])
        places = np.unique(names, return_inverse=True)[1]
        vectors = np.random.default_rng(99).normal(size=(places.max() + 1, 16))[places]
        vectors = vectors + noise * random.normal(size=vectors.shape)
        plain = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
        columns = {name: table[name].to_numpy(dtype=str) for name in ("image", "individual", "group", "part")}
        options = {"vote": ["nearest", "softmax"], "neighbours": [1, 5], "temperature": [0.05], "flip": ["none"]}
        found = evaluate(
            {"plain": plain},
            individuals=columns["individual"],
            parts=columns["part"],
            groups=columns["group"],
            images=columns["image"],
            settings=distinct_settings(**options),
            unknown_label=UNKNOWN,
        )
        found.table.to_csv(folder / "retrieval.csv", index=False)
        found.queries.to_parquet(folder / "queries.parquet", index=False)
        np.savez(folder / "embeddings.npz", plain=plain, **columns)
        best = found.best
        result = {**found.scores, "status": "finished", "error": "", "epochs": epochs, "seconds": 61.0}
        result |= {"vote": best.vote, "neighbours": best.neighbours, "temperature": best.temperature}
        write_result(
            folder, {**result, "flip": best.flip, "threshold": found.threshold, "embedding_size": 16, **scores}
        )

    def page(self) -> str:
        return write_report(self.folder).read_text()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run folder at the moment before its first trial."""
    rows = [
        {
            "image": f"{name}_{number}.jpg",
            "individual": individual,
            "group": "",
            "part": "val" if number == 3 else "train",
        }
        for name, individual in [("old", NASTY), *((f"w{place}", f"w_{place:02}") for place in range(9))]
        for number in range(4)
    ]
    rows += [
        {"image": f"new_{number}.jpg", "individual": UNKNOWN, "group": "", "part": "val" if number % 2 else "train"}
        for number in range(8)
    ]
    table = pd.DataFrame(rows)
    _draw(tmp_path / "photos" / "train", table)
    source = tmp_path / "sweep.yaml"
    source.write_text(SWEEP.replace("ROOT", str(tmp_path / "photos")))
    sweep = load_sweep(source)
    folder = tmp_path / "runs" / "flukes"
    (folder / "trials").mkdir(parents=True)
    (folder / "sweep.yaml").write_text(sweep.to_yaml())
    split = table[["image", "individual", "part"]].set_axis(["Image", "Id", "part"], axis="columns")
    split.to_csv(folder / "split.csv", index=False)
    (folder / "audit.json").write_text(json.dumps(_audit(table)))
    return Run(folder, sweep, table)


def _draw(folder: Path, table: pd.DataFrame) -> None:
    folder.mkdir(parents=True)
    for place, image in enumerate(table["image"]):
        picture = Image.new("RGB", (48, 32), (40, 90, 120))
        ImageDraw.Draw(picture).polygon([(4, 6), (24, 28), (44, 6 + place % 20)], fill=(20, 20, 20 + place))
        picture.save(folder / image, "JPEG")


def _audit(table: pd.DataFrame) -> dict[str, Any]:
    return {
        "photographs": len(table) + 1,
        "individuals": 10,
        "singletons": 0,
        "unknown": 8,
        "set_aside": [{"image": "torn.jpg", "status": "truncated", "reason": "ends early"}],
        "identical_files": [],
        "twins": [["w1_0.jpg", "w2_0.jpg"]],
        "conflicts": [{"images": ["w1_0.jpg", "w2_0.jpg"], "individuals": ["w_01", "w_02"]}],
    }


@pytest.fixture
def full(run: Run) -> Run:
    """A run with trials in every state."""
    point = {
        "model.embedding_size": 16,
        "loss.name": "arcface",
        "loss.arcface.scale": 16.0,
        "train.learning_rate": 1e-3,
    }
    folder = run.begin("aaaa0001", point)
    run.learn(folder)
    run.finish(folder, noise=0.9)
    other = {"model.embedding_size": 32, "loss.name": "proxy_anchor", "train.learning_rate": 1e-4}
    folder = run.begin("aaaa0002", other)
    run.learn(folder)
    run.finish(folder, noise=1.5, seed=2)
    run.finish(run.begin("aaaa0000", {}, kind="baseline"), noise=4.0, seed=3, epochs=0)
    run.learn(run.begin("aaaa0003", other | {"train.learning_rate": 2e-4}), epochs=2)
    folder = run.begin("aaaa0004", other | {"train.learning_rate": 3e-4})
    run.learn(folder, epochs=1, best=0.1)
    write_result(folder, {"status": "pruned", "error": "", "epochs": 1, "recall@1": 0.04, "seconds": 12.0})
    write_result(
        run.begin("aaaa0005", other | {"train.learning_rate": 9e-3}),
        {"status": "failed", "error": "the loss must be finite, but <nan> came", "seconds": 3.0},
    )
    return run


class _Reading(HTMLParser):
    """What a browser would load, and which elements are left open."""

    VOID = frozenset({"meta", "img", "br", "hr", "input", "link", "wbr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.scripts = 0
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.scripts += tag == "script"
        self.images += [found] if tag == "img" else []
        self.loaded += [str(found[name]) for name in ("src", "href", "srcset", "data", "action") if name in found]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_report_before_the_first_trial_says_so(run: Run) -> None:
    page = run.page()
    assert "No trial has begun yet" in page
    assert "There is no bundle yet" in page


def test_a_run_folder_with_settings_only_has_a_report(run: Run) -> None:
    (run.folder / "split.csv").unlink()
    (run.folder / "audit.json").unlink()
    (run.folder / "trials").rmdir()
    assert "Not audited yet" in run.page()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds sweep\.yaml"):
        write_report(tmp_path)


def test_unfinished_trials_give_no_headline(run: Run) -> None:
    run.learn(run.begin("bbbb0001", {"model.embedding_size": 16}), epochs=2)
    run.begin("bbbb0002", {"model.embedding_size": 32})
    page = run.page()
    assert "No trial has finished yet; 2 are unfinished" in page
    assert "2 of 4" in page
    assert "Curves of recall@1 over 2 epochs of 1 trials." in page


def test_when_every_trial_failed_the_reasons_are_shown(run: Run) -> None:
    write_result(run.begin("cccc0001", {}), {"status": "failed", "error": "the loss is not finite"})
    page = run.page()
    assert "No trial has succeeded" in page
    assert "the loss is not finite" in page


def test_one_finished_trial_is_a_whole_report(run: Run) -> None:
    folder = run.begin("dddd0001", {"model.embedding_size": 16})
    run.finish(folder, noise=0.5)
    page = run.page()
    score = json.loads((folder / "result.json").read_text())["recall@1"]
    assert f"<strong>{100 * score:.1f} %</strong>" in page
    assert "<figcaption>retrieval.vote</figcaption>" in page
    assert "<figcaption>model.embedding_size</figcaption>" not in page


def test_a_trial_without_a_known_query_has_a_report(run: Run) -> None:
    unknown = run.table[(run.table["part"] == "train") | (run.table["individual"] == UNKNOWN)]
    poor = replace(run, table=unknown.reset_index(drop=True))
    poor.finish(poor.begin("eeee0001", {"model.embedding_size": 16}), noise=0.5)
    poor.finish(poor.begin("eeee0002", {"model.embedding_size": 32}), noise=0.9)
    page = run.page()
    assert "no known query: no validation photograph is of an individual with a gallery image" in page


def test_a_data_set_without_unknown_individuals_has_a_report(run: Run) -> None:
    named = replace(run, table=run.table[run.table["individual"] != UNKNOWN].reset_index(drop=True))
    named.finish(named.begin("eeee0001", {"model.embedding_size": 16}), noise=0.5)
    assert "Unknown animals identified as known individuals" not in run.page()


def test_every_state_of_a_trial_is_named(full: Run) -> None:
    page = full.page()
    for words in ("3 finished", "1 unfinished", "1 pruned", "1 failed", ">baseline<"):
        assert words in page
    assert "the loss must be finite, but &lt;nan&gt; came" in page
    assert "2 of 4" in page


def test_the_leaderboard_has_the_order_of_the_csv(full: Run) -> None:
    page = full.page()
    table = leaderboard(read_records(full.folder), axes=[], objective="recall@1")
    shown = re.findall(r'<td class="trial" data-value="\w+"><code>(\w+)', page)
    assert shown == table["trial"].tolist()


def test_the_headline_has_ceiling_chance_trivial_answer_and_baseline(full: Run) -> None:
    page = full.page()
    for words in ("Best trial", "Baseline", "Ceiling", "Trivial answer", "Chance", "95 % interval"):
        assert words in page
    assert "a random order 10.0 %" in page  # ten individuals in the gallery


def test_the_page_loads_nothing_and_runs_only_its_own_script(full: Run) -> None:
    read = _Reading(full.page())
    assert all(target.startswith(("data:image/jpeg;base64,", "#")) for target in read.loaded)
    assert read.scripts == 1
    assert not read.open
    assert read.images
    assert all(image["alt"] for image in read.images)


def test_names_of_individuals_are_escaped(full: Run) -> None:
    page = full.page()
    assert "<script>alert" not in page
    assert "Old &lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt; &amp; &#34;Scar&#34;" in page


def test_every_plot_has_a_text_alternative(full: Run) -> None:
    page = full.page()
    labels = re.findall(r'<svg class="plot" role="img" aria-label="([^"]+)"', page)
    assert len(labels) == page.count('<svg class="plot"') >= 6


def test_a_missing_photograph_is_marked_as_missing(full: Run) -> None:
    for path in (Path(full.sweep.fixed["data.root"]) / "train").iterdir():
        path.unlink()
    page = full.page()
    assert "photograph not found" in page
    assert "data:image" not in page


def test_photographs_that_were_set_aside_are_listed(full: Run) -> None:
    page = full.page()
    assert "torn.jpg: truncated, ends early" in page
    assert "w_01 and w_02: w1_0.jpg, w2_0.jpg" in page


@pytest.mark.parametrize("drawn", ["", "the photographs are drawn by `whale-ray synth`: the scores"])
def test_the_result_says_that_photographs_are_drawn(full: Run, drawn: str) -> None:
    path = full.folder / "audit.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"drawn": drawn}))
    assert (f"No whales:</strong> {drawn}." in full.page()) == bool(drawn)


def test_the_bundle_is_named_with_the_commands_that_use_it(full: Run) -> None:
    (full.folder / "best").mkdir()
    assert f"whale-ray serve {full.folder}/best" in full.page()


def test_mistakes_are_sorted_by_cosine_and_show_the_right_individual(full: Run) -> None:
    record = read_record(full.folder / "trials" / "aaaa0000")
    found = find_examples(record, Photographs(Path(full.sweep.fixed["data.root"]) / "train"))
    assert found.mistakes
    distances = [example.answers[0].distance for example in found.mistakes]
    assert distances == sorted(distances)
    for example in found.mistakes:
        answer, right = example.answers
        assert answer.individual != example.query.individual == right.individual
        assert answer.image.rpartition("_")[2] != "3.jpg", "a validation photograph is no gallery photograph"


def test_distances_of_examples_are_those_of_the_embeddings(full: Run) -> None:
    record = read_record(full.folder / "trials" / "aaaa0001")
    stored = np.load(record.folder / "embeddings.npz")
    unit = stored["plain"].astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    place = {image: row for row, image in enumerate(stored["image"])}
    found = find_examples(record, Photographs(Path(full.sweep.fixed["data.root"]) / "train"))
    for example in (*found.mistakes, *found.strangers, *found.right):
        query = unit[place[example.query.image]]
        for answer in example.answers:
            rows = (stored["individual"] == answer.individual) & (stored["part"] == "train")
            nearest = (unit[rows] @ query).max()
            if answer.role != "nearest other individual":
                assert answer.distance == pytest.approx(1 - nearest, abs=1e-5)
            assert answer.distance == pytest.approx(1 - unit[place[answer.image]] @ query, abs=1e-5)


def test_a_photograph_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.jpg")
    data, reason = Photographs(tmp_path / "train").thumbnail("../secret.jpg")
    assert not data
    assert "outside" in reason


def test_the_thumbnail_of_an_animal_is_its_box(tmp_path: Path) -> None:
    Image.new("RGB", (80, 60)).save(tmp_path / "pair.png")
    rows = {"file": ["pair.png"] * 2, "individual": ["a", "b"], "x0": [0, 40], "y0": [0, 0], "x1": [40, 80], "y1": 30}
    photographs = Photographs(tmp_path, Catalog(pd.DataFrame(rows), tmp_path, "new_whale"))
    picture, reason = photographs.open("pair.png#40,0,80,30")
    assert (picture.size if picture else None, reason) == ((40, 30), "")
    assert photographs.thumbnail("pair.png#0,0,40,30")[0].startswith("data:image/jpeg")


def test_two_equal_trials_are_not_told_apart_and_a_far_worse_one_is(run: Run) -> None:
    for trial, noise, seed in (("a1", 0.3, 1), ("a2", 0.3, 1), ("a3", 9.0, 2)):
        run.finish(run.begin(trial, {}), noise=noise, seed=seed)
    comparison = compare_trials(read_records(run.folder), "recall@1")
    assert comparison is not None
    assert comparison.together == {"a2"}
    assert comparison.low <= comparison.score <= comparison.high


def test_the_headline_is_cross_fitted_over_five_folds(run: Run) -> None:
    for trial, noise, seed in (("a1", 1.0, 1), ("a2", 1.1, 2), ("a3", 1.2, 3)):
        run.finish(run.begin(trial, {}), noise=noise, seed=seed)
    records = read_records(run.folder)
    tables = [pd.read_parquet(record.folder / "queries.parquet").query("known") for record in records]
    scored = []
    for place in range(len(tables[0])):
        fold = tables[0]["fold"].iloc[place]
        elsewhere = [(table["rank"][table["fold"] != fold] == 1).mean() for table in tables]
        scored.append(tables[elsewhere.index(max(elsewhere))]["rank"].iloc[place] == 1)
    comparison = compare_trials(records, "recall@1")
    assert comparison is not None
    assert comparison.score == pytest.approx(np.mean(scored))
    assert f"<strong>{100 * np.mean(scored):.1f} %</strong>" in run.page()


def test_trials_are_told_apart_as_a_paired_bootstrap_over_individuals_does(run: Run) -> None:
    for trial, noise, seed in (("a1", 0.3, 1), ("a2", 1.4, 2), ("a3", 3.0, 3)):
        run.finish(run.begin(trial, {}), noise=noise, seed=seed)
    records = read_records(run.folder)
    comparison = compare_trials(records, "map@5")
    assert comparison is not None
    first, *others = (pd.read_parquet(record.folder / "queries.parquet").set_index("image") for record in records)
    random = np.random.default_rng(5)
    for record, table in zip(records[1:], others, strict=True):
        gains = first["average_precision@5"] - table["average_precision@5"].loc[first.index]
        groups = [own.to_numpy() for _, own in gains.groupby(first["cluster"])]
        drawn = random.integers(0, len(groups), (3000, len(groups)))
        means = [np.concatenate([groups[place] for place in row]).mean() for row in drawn]
        found = comparison.differences[record.trial]
        assert found.value == pytest.approx(gains.mean())
        assert (found.low, found.high) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.03)


def test_the_report_counts_trials_that_share_the_lead(run: Run) -> None:
    for trial, noise, seed in (("a1", 0.3, 1), ("a2", 0.3, 1), ("a3", 9.0, 2)):
        run.finish(run.begin(trial, {}), noise=noise, seed=seed)
    assert "1 other trial shares the lead: <em>not told apart</em>" in run.page()
    write_result(run.folder / "trials" / "a2", {"status": "failed", "error": "lost"})
    assert "It is <em>told apart</em> from every other trial" in run.page()


def test_a_sweep_ranked_by_speed_quotes_the_figure_of_its_best_trial(run: Run) -> None:
    fixed = run.sweep.fixed | {"search.also": "milliseconds_per_image", "search.prefer": "milliseconds_per_image"}
    (run.folder / "sweep.yaml").write_text(replace(run.sweep, fixed=fixed).to_yaml())
    for trial, noise, speed in (("a1", 0.3, 9.0), ("a2", 2.0, 1.0)):
        run.finish(run.begin(trial, {}), noise=noise, milliseconds_per_image=speed)
    best = json.loads((run.folder / "trials" / "a2" / "result.json").read_text())["recall@1"]
    assert f"<strong>{100 * best:.1f} %</strong>" in run.page()


def test_an_axis_of_an_alternative_counts_only_the_trials_that_have_it(full: Run) -> None:
    for place, scale in enumerate((16.0, 64.0)):
        point = {"model.embedding_size": 16, "loss.name": "arcface", "loss.arcface.scale": scale}
        full.finish(full.begin(f"ffff000{place}", point), noise=1.0 + place)
    plots = plot_effects(read_records(full.folder), full.sweep.axes, "recall@1")
    by_title = {plot.title: plot for plot in plots}
    assert by_title["loss.arcface.scale"].svg.count('class="mark dot"') == 3
    assert "Only where loss.name is arcface" in by_title["loss.arcface.scale"].note
    assert by_title["model.embedding_size"].svg.count('class="mark dot"') == 4
    assert "retrieval.vote" in by_title


def test_ticks_are_round_numbers_within_the_scale() -> None:
    assert [value for value, _ in Scale(0, 0.5, "").ticks()] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert [text for _, text in Scale(1e-5, 1e-2, "", log=True).ticks()] == ["1e-05", "0.0001", "0.001", "0.01"]
    assert [text for _, text in Scale(0, 1, "", percent=True, marks=(0.5,)).ticks()] == ["50 %"]


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.5], [math.nan], [0.0]])
def test_a_scale_of_few_or_equal_values_has_an_extent(values: list[float]) -> None:
    scale = scale_of(values, "score")
    assert scale.low < scale.high
    assert scale.ticks()


def test_plots_escape_the_names_they_are_given() -> None:
    x, y = Scale(0, 1, "<x>"), Scale(0, 1, "y")
    curves = plot_curves([Curve("<b>", "c0", ((0, 0), (1, 1)))], x=x, y=y, alt='"quoted"')
    rows = plot_rows([Row("<i>", (0.5,), ("<u>",))], x=x, alt="rows")
    assert not {"<b>", "<i>", "<u>", "<x>"} & set(re.findall(r"<\w>", curves + rows))
    assert "&#34;quoted&#34;" in curves


def test_the_report_of_map_names_its_objective(full: Run) -> None:
    sweep = replace(full.sweep, fixed=full.sweep.fixed | {"search.objective": "map@5"})
    (full.folder / "sweep.yaml").write_text(sweep.to_yaml())
    assert "the MAP@5 of the best model (1 is perfect) is" in full.page()


def many_queries() -> Evaluation:
    """The scores of 60 individuals of 4 photographs, half of them in validation, and of 40 unknown ones."""
    random = np.random.default_rng(0)
    names = np.array([*np.repeat([f"w_{place:02d}" for place in range(60)], 4), *["new_whale"] * 40])
    places = np.array([*np.repeat(np.arange(60), 4), *range(60, 100)])
    vectors = random.normal(size=(100, 8))[places] + 0.7 * random.normal(size=(len(places), 8))
    return evaluate(
        {"plain": (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)},
        individuals=names,
        parts=np.where(np.arange(len(names)) % 2, "val", "train"),
        images=np.array([f"{place}.jpg" for place in range(len(names))]),
        settings=distinct_settings(vote=["nearest"], neighbours=[1], temperature=[0.05], flip=["none"]),
        unknown_label="new_whale",
    )


def test_the_report_says_how_far_the_best_trial_can_be_trusted(run: Run) -> None:
    found, folder = many_queries(), run.begin("aaaaaaaa", {"model.embedding_size": 16})
    run.finish(folder, noise=1.0, **found.scores)
    found.queries.to_parquet(folder / "queries.parquet", index=False)
    trust = trust_scores(read_record(folder))
    assert [row["name"] for row in trust.scores] == ["auroc", "baks", "baus", "brier/match", "brier/new"]
    for row in trust.scores:
        assert row["low"] < row["value"] < row["high"]
    assert found.scores["brier/match"] < found.scores["trivial/brier/match"]
    assert [(row["images"], row["queries"]) for row in trust.by_images] == [("2-3", 120)]
    assert trust.reliability is not None
    assert "Reliability curves: the first answer is right: predicted" in trust.reliability.svg
    assert trust.encounters is not None
    assert "drawn from the photographs of one individual" in trust.encounters.summary
    assert "play new ones" in trust.encounters.summary
    assert [row["title"] for row in trust.encounters.rows][:2] == ["the first", "all"]
    (folder / "queries.parquet").unlink()
    page = run.page()
    table = page[page.index("<h3>Several photographs of one animal</h3>") : page.index("<h3>By photographs of")]
    assert table.count("<tr>") == 4


def test_the_report_has_open_set_scores(full: Run) -> None:
    page = full.page()
    section = page[page.index('<section id="trust">') : page.index('<section id="learning">')]
    for words in ("<td>auroc</td>", "<td>baks</td>", "<td>baus</td>", "By photographs of the individual"):
        assert words in section, words


def test_a_search_shows_what_each_axis_explains_and_the_noise_floor_of_seeds(run: Run) -> None:
    for place in range(10):
        point = {"train.learning_rate": 10.0 ** -(2 + place / 4), "loss.name": "proxy_anchor"}
        point["model.embedding_size"] = 16 + 16 * (place % 2)
        run.finish(run.begin(f"a{place}", point), noise=0.3 + place / 5, seed=place)
    run.finish(run.begin("c0", point | {"train.learning_rate": 1.0}), noise=1.0, seed=30)  # of a wider range, once
    run.finish(run.begin("b0", point, kind="repeat"), noise=1.0, seed=20)
    written = json.loads((run.folder / "trials" / "b0" / "settings.json").read_text())
    written["settings"]["seed"] = 1
    (run.folder / "trials" / "b0" / "settings.json").write_text(json.dumps(written))
    page = run.page()
    rows = pd.read_csv(run.folder / "importance.csv").set_index("how")
    assert set(rows.loc["share of the spread", "axis"]) == {"train.learning_rate", "model.embedding_size"}
    assert set(rows.loc["share of the spread", "compared"]) == {10}
    scores = [
        json.loads((run.folder / "trials" / name / "result.json").read_text())["recall@1"] for name in ("a9", "b0")
    ]
    assert rows.loc["noise floor", "value"] == pytest.approx(np.std(scores, ddof=1))
    assert "Beyond noise: more than in each of 19 shuffles" in page
    assert "The noise floor: the same training with another seed scores" in page
