"""Session fixtures that no test may change: a small drawn data set, one Ray cluster, one finished sweep."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import pickle
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key
from filelock import FileLock
from process_groups import GroupScheduling, end_shared, mark_by_fixtures, pytest_testnodedown, sort_by_group
from server_processes import free_port, server_process
from small_sweep import SWEEP

from whale_ray.ray_private import SOCKET_POLLING

# Before torch is imported: threads that wait for each other cost more than the small tensors of the tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray's processes look for each other's sockets once a second for 10 s, and a node has 30 s to start: here 20 times a
# second, and two minutes each.
PATIENCE = {"RAY_raylet_client_num_connect_attempts": "2400", "RAY_raylet_start_wait_time_s": "120"}
for variable, default in (SOCKET_POLLING | PATIENCE).items():
    os.environ.setdefault(variable, default)
# The tests start hundreds of processes, and each would compile the project again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Calls without a time limit of their own have that of httpx, 5 seconds, which a busy machine takes at times.
for part in ("connect", "read", "write", "pool"):
    setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, part, 60.0)

if TYPE_CHECKING:
    from whale_ray.sweep.config.sweep_spec import Sweep
    from whale_ray.sweep.execution.driver import SweepResult


pytest_testnodedown = pytest.hookimpl(optionalhook=True)(pytest_testnodedown)


_leave_process = subprocess.Popen.__exit__


def kill_and_leave(process: subprocess.Popen[Any], kind: object, *error: Any) -> None:
    """End a `with subprocess.Popen(...)` block: without waiting for a process that nothing ends any more."""
    if kind is not None:
        process.kill()
    _leave_process(process, kind, *error)  # type: ignore[arg-type]


subprocess.Popen.__exit__ = kill_and_leave  # type: ignore[method-assign, assignment]


def pytest_configure(config: pytest.Config) -> None:
    """Give each process of pytest-xdist a folder of Ray: a sweep without an address joins a Ray in the same folder.

    The token of the user is made before, if there is none: two processes that start Ray would both make one.
    """
    token = Path("~/.ray/auth_token").expanduser()
    token.parent.mkdir(exist_ok=True)
    with suppress(FileExistsError), open(token, "x", opener=partial(os.open, mode=0o600)) as file:
        file.write(secrets.token_hex(32))
    if hasattr(config, "workerinput"):
        os.environ["RAY_TMPDIR"] = folder = tempfile.mkdtemp(prefix=f"ray{os.getpid()}-", dir="/tmp")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    return GroupScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests by their fixtures, and sort those of a process of pytest-xdist."""
    mark_by_fixtures(items)
    if hasattr(config, "workerinput"):
        sort_by_group(items)


def pytest_collection_finish() -> None:
    """Leave all that was imported out of garbage collection, with which every trial of a sweep ends."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("there is no GPU")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """End what a group of tests shares after the last one, in a process of pytest-xdist, where they are sorted.

    Once a test has failed, neither pytest nor pytest-timeout limits the time in which its fixtures end.
    """
    limit, stderr = float(item.config.getini("faulthandler_timeout")), item.config.stash[fault_handler_stderr_fd_key]
    faulthandler.dump_traceback_later(limit, exit=True, file=stderr)
    try:
        yield
    finally:
        if hasattr(item.config, "workerinput"):
            end_shared(item, nextitem)


@pytest.fixture(scope="session", autouse=True)
def cache(shared_folder: Path) -> Iterator[Path]:
    """The folder of decoded photographs: never the user's own. In the environment, for workers inherit that."""
    folder = shared_folder / "cache"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHALE_RAY_CACHE", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder of this test session that all processes of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def photographs(shared_folder: Path) -> Path:
    """A drawn data set: 8 named individuals and unknown ones on 72 photographs, 14 more in test/."""
    from whale_ray.data.synthetic.dataset import draw_dataset

    root = shared_folder / "drawn"
    with FileLock(f"{root}.lock"):
        if not root.exists():
            draw_dataset(root, individuals=8, images=72, difficulty=0.2, size=(32, 64), workers=1)
    return root


@pytest.fixture(scope="module", autouse=True)
def shared_files_stay(shared_folder: Path) -> Iterator[None]:
    """Name the module whose tests change the shared photographs: other modules would fail for it."""

    def state() -> list[tuple[str, int]]:
        return sorted((str(path), path.stat().st_size) for path in (shared_folder / "drawn").glob("**/*"))

    before = state()
    yield
    assert not before or state() == before


@pytest.fixture(scope="module", autouse=True)
def environment_stays() -> Iterator[None]:
    """Give each module the environment variables that the first one had: Ray and the commands set some."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def cluster(cache: Path) -> Iterator[str]:
    """The address of a Ray of this session's own, with two CPUs."""
    import ray

    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    context = ray.init(address="local", num_cpus=2, **options)
    yield context.address_info["gcs_address"]
    ray.shutdown()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of moto's S3, with the bucket `whales`."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = (sys.executable, "-m", "moto.server", "-p", str(port))
    with server_process(*command, url=url, log=tmp_path_factory.mktemp("moto") / "log"):
        httpx.put(f"{url}/whales").raise_for_status()
        yield url


WriteSweep = Callable[..., Any]


@pytest.fixture(scope="session")
def write_sweep(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> WriteSweep:
    """Reads the small sweep as a person would give it: settings over it as `--set` has them."""
    from whale_ray.sweep.config.sweep_spec import load_sweep

    path = tmp_path_factory.mktemp("sweeps") / "little.yaml"
    path.write_text(SWEEP.replace("ROOT", str(photographs)))

    def write(*options: str) -> Sweep:
        return load_sweep(path, options)

    return write


@pytest.fixture(scope="session")
def finished(cache: Path, write_sweep: WriteSweep, shared_folder: Path) -> SweepResult:
    """The small sweep when all of it has run; the processes of pytest-xdist run it once. To be read only."""
    from whale_ray.sweep.execution.driver import run_sweep

    kept = shared_folder / "finished.pickle"
    with FileLock(f"{kept}.lock"):
        if not kept.exists():
            result = run_sweep(write_sweep(), runs=shared_folder / "runs", in_process=True)
            kept.write_bytes(pickle.dumps(result))
    found: SweepResult = pickle.loads(kept.read_bytes())
    return found
