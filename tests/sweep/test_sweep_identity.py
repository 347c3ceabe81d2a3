"""Identity of a sweep: drawn once per run folder; a folder of earlier versions keeps the names of its W&B runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from whale_ray.errors import InputError
from whale_ray.sweep.run_folder.lock import claimed
from whale_ray.sweep.run_folder.sweep_identity import sweep_identity


def test_the_identity_stays_when_the_sweep_is_resumed(tmp_path: Path) -> None:
    first = sweep_identity(tmp_path, "little")
    assert re.fullmatch("[0-9a-f]{8}", first.id)
    assert first.wandb_prefix == f"little-{first.id}"
    assert sweep_identity(tmp_path, "little") == first


def test_a_fresh_run_and_the_run_of_another_person_have_other_identities(tmp_path: Path) -> None:
    identities = []
    for folder in (tmp_path / "a" / "little", tmp_path / "a" / "little", tmp_path / "b" / "little"):
        with claimed(folder, fresh=True):
            (folder / "sweep.yaml").write_text("name: little")
            identities.append(sweep_identity(folder, "little"))
    assert len({one.id for one in identities}) == len({one.wandb_prefix for one in identities}) == 3


@pytest.mark.parametrize(
    ("run", "continued"),
    [
        ("offline-run-20250101_120000-little-4e014196", True),
        ("run-20250101_120000-little-4e014196", True),
        ("offline-run-20250101_120000-little-ab12cd34-4e014196", False),
        (None, False),
    ],
)
def test_a_folder_of_an_earlier_version_continues_its_wandb_runs(
    tmp_path: Path, run: str | None, continued: bool
) -> None:
    (tmp_path / "trials" / "4e014196" / "wandb" / (run or "")).mkdir(parents=True)
    identity = sweep_identity(tmp_path, "little")
    assert identity.wandb_prefix == ("little" if continued else f"little-{identity.id}")
    (tmp_path / "trials" / "4e014196" / "wandb").rename(tmp_path / "elsewhere")
    assert sweep_identity(tmp_path, "little") == identity


def test_a_damaged_identity_is_named(tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_text("{")
    with pytest.raises(InputError, match=r"identity\.json must be JSON"):
        sweep_identity(tmp_path, "little")
