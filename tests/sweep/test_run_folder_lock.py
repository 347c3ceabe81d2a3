"""A run folder has one driver at a time and is never overwritten."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from whale_ray.errors import InputError
from whale_ray.sweep.run_folder.lock import claimed

HOLDER = """
import sys, time
from pathlib import Path
from whale_ray.sweep.run_folder.lock import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def start_holder(folder: Path) -> subprocess.Popen[str]:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    return holder


def end(holder: subprocess.Popen[str]) -> None:
    with holder:
        holder.send_signal(signal.SIGKILL)


def test_the_folder_is_made_and_names_its_driver(tmp_path: Path) -> None:
    with claimed(tmp_path / "runs" / "a") as folder:
        assert (folder / "trials").is_dir()
        assert (folder / "lock").read_text() == f"{os.getpid()}\n"


def test_a_second_driver_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    holder = start_holder(tmp_path / "a")
    try:
        with pytest.raises(InputError, match=rf"one driver at a time .* but process {holder.pid} does"):
            claimed(tmp_path / "a").__enter__()
        with claimed(tmp_path / "b"):
            pass
    finally:
        end(holder)


def test_the_lock_of_a_killed_driver_is_released(tmp_path: Path) -> None:
    end(start_holder(tmp_path / "a"))
    with claimed(tmp_path / "a"):
        assert (tmp_path / "a" / "lock").read_text() == f"{os.getpid()}\n"


def test_fresh_moves_the_old_folder_aside(tmp_path: Path) -> None:
    with claimed(tmp_path / "a") as folder:
        (folder / "sweep.yaml").write_text("old")
    with claimed(tmp_path / "a", fresh=True) as folder:
        assert not (folder / "sweep.yaml").exists()
        (folder / "sweep.yaml").write_text("newer")
    with claimed(tmp_path / "a", fresh=True) as folder:
        assert not (folder / "sweep.yaml").exists()
    moved = sorted(path for path in tmp_path.iterdir() if path.name.startswith("a."))
    assert sorted((path / "sweep.yaml").read_text() for path in moved) == ["newer", "old"]


def test_fresh_moves_nothing_while_a_driver_runs(tmp_path: Path) -> None:
    holder = start_holder(tmp_path / "a")
    (tmp_path / "a" / "sweep.yaml").write_text("its own")
    try:
        with pytest.raises(InputError, match="one driver at a time"):
            claimed(tmp_path / "a", fresh=True).__enter__()
    finally:
        end(holder)
    assert (tmp_path / "a" / "sweep.yaml").read_text() == "its own"
    assert len(list(tmp_path.iterdir())) == 1


def test_without_fresh_everything_stays(tmp_path: Path) -> None:
    for _ in range(2):
        with claimed(tmp_path / "a") as folder:
            (folder / "sweep.yaml").touch()
            (folder / "trials" / "12345678").mkdir(exist_ok=True)
    assert (tmp_path / "a" / "trials" / "12345678").is_dir()


def test_a_read_only_folder_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"must be writable.*--runs"):
        claimed(tmp_path / "file" / "a").__enter__()


def test_an_error_inside_the_lock_is_not_reported_as_a_folder_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"), claimed(tmp_path / "a"):
        (tmp_path / "nowhere").read_text()
