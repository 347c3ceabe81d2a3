"""The wheel, installed outside the checkout, has everything that README and docs show."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel; its dependencies come from the environment of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build writes into its source
    for name in ("whale_ray", "sweeps"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    # In the environment of the tests: pip would download setuptools for one of its own.
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("whale_ray-*.whl")
    venv.create(folder / "env", with_pip=False)
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    others = [path for path in sys.path if path.endswith("site-packages")] or site.getsitepackages()
    (packages / "dependencies.pth").write_text("\n".join(others))
    python = folder / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    return python.parent


def run(installed: Path, folder: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": "", "PATH": f"{installed}:{os.environ['PATH']}"}
    arguments = [str(installed / command[0]), *command[1:]]
    ended = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_the_quickstart_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    where = run(
        installed, tmp_path, "python", "-c", "import whale_ray.serve_app as app; print(app.__file__, app.build)"
    )
    assert str(installed.parent) in where
    assert "sweeps/quickstart.yaml is written" in run(installed, tmp_path, "whale-ray", "init", "quickstart")
    run(installed, tmp_path, "whale-ray", "synth", "synthetic", "--individuals", "6", "--images", "40")
    short = ["model.encoder=tiny", "model.embedding_size=8", "loss.name=proxy_anchor", "train.epochs=1"]
    options = [part for setting in short for part in ("--set", setting)]
    sweep = ["-m", "whale_ray.sweep", "sweeps/quickstart.yaml", "--set", "data.image_size=32x64", *options]
    assert "best bundle" in run(installed, tmp_path, "python", *sweep)
    photograph = str(next((tmp_path / "synthetic" / "test").iterdir()))
    assert "candidates" in run(installed, tmp_path, "whale-ray", "identify", "runs/quickstart/best", photograph)
