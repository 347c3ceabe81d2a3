"""Benchmark of a sweep on Ray nodes that share nothing but S3, which fails for a while.

S3 is moto's server behind a relay that refuses connections, or accepts them and answers nothing. The sweep must end
with exit code 0, train no epoch twice and have the table of one machine to the last digit.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer
from node_losses import EPOCH, Driver
from nodes_on_s3 import compare, draw_photographs, running_alone, write_sweep
from ray_machines import free_port, wait_for
from s3_cluster import answers, cluster_on_s3, moto

_NODES = 2


class Relay:
    """A process that passes on connections to a server of this machine while a file is missing.

    Args:
        folder: Gets the file.
        target: URL of the server.
    """

    def __init__(self, folder: Path, target: str) -> None:
        self._flag, port = folder / "down", free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, __file__, "relay", str(port), target.rpartition(":")[2], str(self._flag)]
        self.process = subprocess.Popen(command)
        wait_for(lambda: answers(self.url), "the relay")

    def fail(self, *, silently: bool) -> None:
        """Drop and refuse connections; or let them be, without an answer."""
        self.process.send_signal(signal.SIGSTOP) if silently else self._flag.touch()

    def recover(self) -> None:
        """Pass on connections again."""
        self._flag.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGCONT)


async def relay(port: int, target: int, flag: Path) -> None:
    """Pass on connections while a file is missing."""
    writers: set[asyncio.StreamWriter] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer, request = await asyncio.open_connection("127.0.0.1", target)
        writers.update((writer, request))
        await asyncio.gather(copy(reader, request), copy(answer, writer))
        writers.difference_update((writer, request))

    while True:
        async with await asyncio.start_server(serve, "127.0.0.1", port):
            while not flag.exists():
                await asyncio.sleep(0.05)
            for writer in writers:
                writer.transport.abort()
        while flag.exists():
            await asyncio.sleep(0.05)


@contextmanager
def relayed_s3(folder: Path) -> Iterator[tuple[str, Relay]]:
    """Yield the URL of a running S3 and a relay to it."""
    with moto(folder) as server:
        relay = Relay(folder, server)
        try:
            yield server, relay
        finally:
            relay.process.kill()


def main(
    seconds: Annotated[float, typer.Option(help="Seconds without S3.")] = 75.0,
    trials: Annotated[int, typer.Option(help="Number of trials beside the baseline.")] = 4,
    epochs: Annotated[int, typer.Option(help="Epochs of a trial.")] = 8,
    after: Annotated[int, typer.Option(help="Epochs of all trials before S3 fails.")] = 6,
    silently: Annotated[bool, typer.Option(help="S3 answers nothing, instead of refusing connections.")] = False,
    driver_only: Annotated[bool, typer.Option(help="Only the driver loses S3; the nodes still reach it.")] = False,
) -> None:
    """Run the sweep on two nodes, take S3 away in the middle and compare the table with that of one machine."""
    begun = time.monotonic()

    def say(text: str) -> None:
        typer.echo(f"{time.monotonic() - begun:6.1f} s  {text}")

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server, relay = stack.enter_context(relayed_s3(folder))
        cluster, bucket = stack.enter_context(cluster_on_s3(_NODES, server if driver_only else relay.url))
        cluster.head.environment |= {"AWS_ENDPOINT_URL": relay.url}
        photographs = draw_photographs(cluster.folder / "drawn")
        file = write_sweep(cluster.folder / "nodes.yaml", photographs, trials=trials, epochs=epochs)
        driver = Driver(file, bucket, cluster)
        stack.callback(driver.process.kill)
        wait_for(lambda: sum(map(bool, map(EPOCH.match, driver.lines()))) >= after, "an epoch", seconds=600.0)
        relay.fail(silently=silently)
        say(f"S3 fails; {driver.finished()} trials have finished")
        time.sleep(seconds)
        say(f"S3 is back; {driver.finished()} trials have finished")
        relay.recover()
        driver.follow(trials + 1, cluster, say)
        assert not driver.repeats(), driver.repeats()
        with running_alone(file, cluster) as alone:
            assert alone.wait() == 0
        (mirror,) = cluster.folder.glob("driver/cache/runs/*/nodes")
        count = compare(mirror, cluster.folder / "alone" / "nodes", together=None)
        say(f"the table of {count} trials equals that of one machine to the last digit; no epoch was trained twice")


if __name__ == "__main__":
    if sys.argv[1:2] == ["relay"]:
        asyncio.run(relay(int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])))
    else:
        typer.run(main)
