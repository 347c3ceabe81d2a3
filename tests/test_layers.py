"""The house keeps its floors: who may import whom, and where Ray, torch and faiss are allowed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "whale_ray"

# Top to bottom. A file imports only what stands before it.
PLAN = """
errors torchvision_ops device durable spreadsheet
data.catalog data.census data.fluke data.scene data.synthetic
data.pictures data.pixels data.audit data.split data.sampling data.augmentation data.batches
data.decisions data.confirmations data.review data.copies
learning.layers learning.weights learning.trunks learning.classifiers learning.hub learning.encoders
learning.ensemble learning.loss_layers learning.proxy_losses learning.pair_losses learning.losses learning.proxies
learning.precision learning.depth learning.optimiser learning.averaging learning.state learning.training
retrieval.embedding retrieval.features retrieval.occlusion
retrieval.gallery retrieval.pairs retrieval.keys retrieval.candidates retrieval.neighbours retrieval.ranking
retrieval.whitening retrieval.setting retrieval.expansion retrieval.reciprocal
retrieval.classifier retrieval.matching
retrieval.metrics retrieval.resampling retrieval.open_set retrieval.calibration retrieval.scoring
retrieval.pseudo retrieval.scoreboard retrieval.searches retrieval.evaluation retrieval.evidence retrieval.doubts
runtime model_card bundle identification identify fastest
sweep.settings sweep.document sweep.axes sweep.reference sweep.parameters sweep.manual
sweep.screening sweep.reading sweep.idle sweep.search_conflicts sweep.training_conflicts sweep.conflicts sweep.spec
sweep.dataset sweep.plan sweep.halving sweep.guards sweep.space sweep.tracking sweep.checkpoint sweep.leaderboard
sweep.forecast sweep.estimate sweep.comparable sweep.longer sweep.early sweep.proxies sweep.scores
sweep.pseudo sweep.ensemble sweep.fit sweep.work sweep.trial sweep.quota sweep.ledger
sweep.figures sweep.plots sweep.tradeoff sweep.effects sweep.outcomes sweep.comparison sweep.contrasts sweep.shares
sweep.importance sweep.headline sweep.verdicts sweep.trust sweep.maps sweep.thumbnails sweep.examples
sweep.review sweep.report
sweep.winner sweep.imports sweep.runfolder sweep.cluster sweep.progress sweep.preparation
sweep.live sweep.metrics sweep.tuner sweep.run sweep.command sweep.__main__
serving.telemetry serving.tables serving.changes serving.enrolment serving.review
serving.contract serving.admission serving.answers serving.uploads serving.decoder serving.decoding serving.batching
serving.catalogue serving.recogniser
serving.keys serving.access serving.origins serving.guard serving.settings serving.docs serving.words serving.service
serving.session serving.teaching serving.web serving.exposure serving.metrics
serving.desk serving.fence serving.cards serving.page serving.apart serving.deployments serving.front serving.rollout
serving.app serving.client
submission cli
"""
HOUSE = PLAN.split()

# Where a library may be imported, by module prefix; elsewhere it must not be.
ALLOWED = {
    "ray.tune": {"sweep.trial", "sweep.tuner"},
    "ray.serve": {
        "serving.apart",
        "serving.app",
        "serving.deployments",
        "serving.exposure",
        "serving.front",
        "serving.rollout",
    },
    "ray": {
        "sweep.cluster",
        "sweep.metrics",
        "sweep.trial",
        "sweep.tuner",
        "serving.apart",
        "serving.app",
        "serving.deployments",
        "serving.exposure",
        "serving.front",
        "serving.metrics",
        "serving.rollout",
    },
    "gradio": {"serving.page"},
    "faiss": {"retrieval.candidates"},
    "openvino": {"runtime"},
    "onnxruntime": {"runtime"},
    "sqlalchemy": {"serving.tables", "serving.changes", "serving.enrolment", "serving.review"},
    "wandb": {"sweep.tracking"},
    "optuna": {"sweep.shares", "sweep.space"},
}


def modules() -> dict[str, Path]:
    paths = (path for path in PACKAGE.rglob("*.py") if path.stem != "__init__")
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in paths}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_file_has_its_place_in_the_house() -> None:
    assert set(modules()) == set(HOUSE)


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_file_imports_only_what_stands_above_it(module: str) -> None:
    place = HOUSE.index(module)
    own = {name.removeprefix("whale_ray.") for name in imports(modules()[module]) if name.startswith("whale_ray.")}
    below = {name for name in own if name in HOUSE and HOUSE.index(name) >= place}
    assert not below, f"{module} imports {sorted(below)}, which stand below it"


@pytest.mark.parametrize("library", sorted(ALLOWED))
def test_a_library_is_imported_only_where_the_table_says(library: str) -> None:
    users = {
        module
        for module, path in modules().items()
        if any(name == library or name.startswith(f"{library}.") for name in imports(path))
    }
    assert users, f"nobody imports {library}: the table is out of date"
    assert users <= ALLOWED[library]


def test_no_file_is_called_utils() -> None:
    assert not {"utils", "common", "helpers", "misc"} & {path.stem for path in PACKAGE.rglob("*.py")}


def test_importing_the_package_loads_neither_torch_nor_ray_and_is_quick() -> None:
    code = "import sys, time; t = time.perf_counter(); import whale_ray; print(time.perf_counter() - t); "
    code += "print(sorted({'torch', 'ray', 'pandas', 'transformers'} & set(sys.modules)))"
    seconds, loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split("\n")[:2]
    assert loaded == "[]"
    assert float(seconds) < 0.3
