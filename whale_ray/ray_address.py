"""Address of a Ray cluster: where it comes from, and whether a cluster answers there within seconds.

`ray.init` itself tries for minutes, then names neither the address nor its origin (ray#43070, ray#47206).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

from whale_ray.errors import InputError
from whale_ray.ray_private import (
    check_cluster_versions,
    enable_token_auth_if_token_exists,
    is_ray_initialized,
    local_cluster_address,
    recorded_cluster_address,
)

VARIABLE: Final = "RAY_ADDRESS"
SECONDS: Final = 8.0
_FORM = re.compile(r"(?P<client>ray://)?(?P<target>(\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]+):\d{1,5})/?")
# Any gRPC server answers; only a cluster's control service has this method.
_METHOD = "/ray.rpc.NodeInfoGcsService/CheckAlive"
_REFUSED = ("UNAUTHENTICATED", "PERMISSION_DENIED")
_NO_TOKEN = "it wants a token and there is none: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"


@dataclass(frozen=True)
class RequestedAddress:
    """Address of a cluster as a user gave it.

    Attributes:
        value: HOST:PORT, ray://HOST:PORT, `auto` or `local`.
        origin: `--address` or the name of an environment variable.
    """

    value: str
    origin: str

    @property
    def remedy(self) -> str:
        """The remedy if no cluster answers."""
        other = f"leave {self.origin} out" if self.origin.startswith("-") else f"unset {self.origin}"
        return f"Start one with `ray start --head`, name another, or {other}"


def requested_address(option: str | None) -> RequestedAddress | None:
    """Return the address that Ray would use; None if there is none. RAY_ADDRESS counts before no option and `auto`."""
    if (variable := os.environ.get(VARIABLE)) and option in (None, "auto"):
        return RequestedAddress(variable, VARIABLE)
    return None if option is None else RequestedAddress(option, "--address")


def check_ray_address(option: str | None, *, seconds: float = SECONDS) -> str:
    """Return the address for `ray.init` after checking that a cluster of the same versions answers there.

    Args:
        option: Value of `--address`; None if it was not given.
        seconds: Longest wait for an answer.

    Returns:
        The address; `local` if no cluster is named, for a Ray of this process.

    Raises:
        InputError: If the address is none, no cluster answers within `seconds`, or it has another Ray or Python.
    """
    requested = requested_address(option)
    if is_ray_initialized():
        return "auto" if requested is None else requested.value
    if requested is None:
        recorded = recorded_cluster_address()
        if not recorded or _fault_of(recorded, seconds):
            return "local"
        requested = RequestedAddress(recorded, "the last `ray start` on this machine")
    elif requested.value == "local":
        return "local"
    elif fault := _check_auto(seconds) if requested.value == "auto" else _fault_of(requested.value, seconds):
        raise InputError(
            f"a Ray cluster must answer at {requested.value} ({requested.origin}), but {fault}. {requested.remedy}"
        )
    if "://" not in requested.value:
        _check_versions(requested)
    return requested.value


def check_driver_address(option: str | None) -> str:
    """Return the address of `check_ray_address` for the driver of a sweep.

    Args:
        option: Value of `--address`; None if it was not given.

    Raises:
        InputError: If no cluster answers, or the address is one of Ray Client, which would run the search on the head
            while study, run folder and report are on this machine.
    """
    requested = requested_address(option)
    form = None if requested is None else _FORM.fullmatch(requested.value)
    if requested and form and form["client"]:
        host = form["target"].rpartition(":")[0]
        raise InputError(
            f"a machine of the cluster must drive a sweep, but {requested.value} ({requested.origin}) connects by Ray "
            f"Client. On a machine of the cluster take {host}:6379. From elsewhere take `ray job submit --address "
            f"http://{host}:8265 --working-dir . -- python -m whale_ray.sweep SWEEP.yaml`"
        )
    return check_ray_address(option)


def describe_mismatch(error: RuntimeError, target: str) -> Exception:
    """Return an InputError if the cluster has other versions of Ray or Python; any other error unchanged.

    Args:
        error: What Ray has raised.
        target: Address of the cluster.
    """
    found = re.findall(r"(Ray|Python): (\S+)", str(error))
    if "Version mismatch" not in str(error) or len(found) != 4:
        return error
    theirs, ours = (" and ".join(f"{name} {version}" for name, version in part) for part in (found[:2], found[2:]))
    return InputError(
        f"this machine and the cluster must have the same Ray and Python, but the cluster at {target} has {theirs} and "
        f"this machine {ours}. Install those versions here, or submit the sweep with `ray job submit`, which runs it "
        "on the cluster"
    )


def _check_versions(requested: RequestedAddress) -> None:
    target = local_cluster_address() if requested.value == "auto" else requested.value
    try:
        check_cluster_versions(target)
    except RuntimeError as error:
        raise describe_mismatch(error, target) from error
    except PermissionError as error:
        raise InputError(
            f"a Ray cluster must take the token of this machine, but that at {target} ({requested.origin}) refuses it. "
            "Set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the token of the cluster"
        ) from error


def _check_auto(seconds: float) -> str:
    try:
        address = local_cluster_address()
    except ConnectionError:
        return "no cluster runs on this machine"
    fault = _fault_of(address, seconds)
    return f"at {address}, where one ran on this machine, {fault}" if fault else ""


def _fault_of(address: str, seconds: float) -> str:
    """Return why no cluster answers at the address; empty if one does, or only Ray can know."""
    form = _FORM.fullmatch(address)
    if form is None:
        if re.match(r"https?://", address):
            return "this is the address of a dashboard; a cluster's is HOST:6379 or ray://HOST:10001"
        return "" if "://" in address else "an address is HOST:PORT, ray://HOST:PORT, auto or local"
    return _ask(form["target"], seconds, is_client_server=form["client"] is not None)


def _ask(target: str, seconds: float, *, is_client_server: bool) -> str:
    """Return why no Ray answers a remote call at HOST:PORT; empty if one does."""
    import grpc

    if os.environ.get("RAY_USE_TLS", "0") not in ("0", ""):
        return ""  # this process has no certificates of the cluster
    with grpc.insecure_channel(target, options=(("grpc.enable_http_proxy", 0),)) as channel:
        call = channel.unary_unary(_METHOD, request_serializer=bytes, response_deserializer=bytes)
        try:
            call(b"", timeout=seconds)
        except grpc.RpcError as error:
            status = error.code().name
            if status in _REFUSED:
                return "" if enable_token_auth_if_token_exists() else _NO_TOKEN
            if is_client_server and status == "UNIMPLEMENTED":
                return ""
            if status == "DEADLINE_EXCEEDED":
                return f"nothing answers within {seconds:g} s"
            if status == "UNAVAILABLE":
                return f"none can be reached ({_last_reason(str(error.details()))})"
            return "another program answers there"
    return ""


def _last_reason(details: str) -> str:
    """Return the last part of gRPC's chain of reasons, such as `Connection refused`."""
    return details.rpartition("; ")[2].rpartition(": ")[2].strip().rstrip(".")
