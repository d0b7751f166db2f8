"""Several processes that train one model: torchrun starts and watches them, DistributedDataParallel joins gradients.

They may sit on one machine (`classify train --processes 2`) or on several (`torchrun --nnodes 2 --nproc-per-node 1 -m
classify.cli train ...` on each, data and runs on a disk that all see), with a GPU each or on processors. torch's own
launcher serves better than a trainer such as Lightning here: the loop stays ours, so that what is frozen is computed
once, a resumed run ends with the same weights, a checkpoint holds plain tensors, and nothing more is installed.
Without a group all functions do nothing.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure, record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.nn.parallel import DistributedDataParallel

from curate.errors import CurateError

HANDLED = [signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]
GRACE = 3.0  # seconds in which the launcher finds the process that failed first, and ends the others

T = TypeVar("T")


def rank() -> int:
    """Of this process in its group; 0 is the one that writes."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    """Processes in the group."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def share(rows: Any) -> Any:
    """Every `size()`-th of a sequence: what this process does of it."""
    return rows[rank() :: size()]


@contextmanager
def first() -> Iterator[None]:
    """The first process goes through the block before the others, who find what it has written."""
    if rank() > 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


def barrier() -> None:
    """Wait for all."""
    if distributed.is_initialized():
        distributed.barrier()


def total(values: Tensor) -> Tensor:
    """The sum over all processes."""
    if distributed.is_initialized():
        distributed.all_reduce(values)
    return values


def agreed(value: T) -> T:
    """What the first process has."""
    if not distributed.is_initialized():
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def gathered(rows: Tensor, length: int) -> Tensor:
    """The rows (n, ...) of all `share`s of a sequence of `length`, on the CPU, in the order of the sequence."""
    if not distributed.is_initialized():
        return rows
    parts: list[Any] = [None] * size()
    distributed.all_gather_object(parts, rows.cpu())
    out = torch.empty(length, *rows.shape[1:], dtype=rows.dtype)
    for number, part in enumerate(parts):
        out[number :: size()] = part
    return out


def joined(module: nn.Module) -> nn.Module:
    """The module, its gradients averaged over the group. On GPUs batch norm sees the whole batch, on CPUs its share."""
    if not distributed.is_initialized():
        return module
    if torch.cuda.is_available():
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return DistributedDataParallel(module, device_ids=[torch.cuda.current_device()])
    return DistributedDataParallel(module)


def alike(module: nn.Module) -> None:
    """Give all processes the first one's buffers: the statistics of batch norm differ between shares of a batch."""
    if distributed.is_initialized():
        for buffer in module.buffers():
            distributed.broadcast(buffer, src=0)


@contextmanager
def membership() -> Iterator[None]:
    """Join the group that torchrun's environment names, if it names one, and leave it again."""
    if "RANK" not in os.environ or "MASTER_ADDR" not in os.environ or distributed.is_initialized():
        yield
        return
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    distributed.init_process_group("nccl" if gpu else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def launch(processes: int, work: Callable[..., T], *arguments: object) -> T:
    """Run `work(*arguments)` in so many processes of this machine, as torchrun would; what the first one returns.

    Raises:
        CurateError: one of them failed or was killed; the others are ended.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=os.urandom(8).hex(),
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.1,
        start_method="spawn",
    )
    with _quiet():
        try:
            return elastic_launch(config, _member)(work, arguments)[0]
        except ChildFailedError as error:
            raise CurateError(_why(error, processes)) from None
        except SignalException:
            raise KeyboardInterrupt from None  # the processes are ended


@contextmanager
def _quiet() -> Iterator[None]:
    """The launcher logs the tracebacks of all processes, and keeps the handlers of signals: neither is wanted."""
    watcher = logging.getLogger("torch.distributed.elastic")
    level, handlers = watcher.level, {number: signal.getsignal(number) for number in HANDLED}
    watcher.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        watcher.setLevel(level)
        for number, handler in handlers.items():
            signal.signal(number, handler)


@record
def _member(work: Callable[..., T], arguments: tuple[object, ...]) -> T:
    try:
        with membership():
            return work(*arguments)
    except RuntimeError:  # mostly that another one is gone, which then is the cause to tell of
        time.sleep(GRACE)
        raise


def _why(error: ChildFailedError, processes: int) -> str:
    """The cause, of the process that failed by itself: the others fail because it is gone."""
    failures: list[ProcessFailure] = list(error.failures.values())
    killed = next((failure for failure in failures if failure.exitcode < 0), None)
    if killed:
        name = signal.Signals(-killed.exitcode).name
        return (
            f"process {killed.local_rank + 1} of {processes} (pid {killed.pid}) was killed by {name}; the others were "
            "ended. What was trained is kept: the same command goes on after the last whole epoch."
        )
    own = min(failures, key=lambda failure: failure.timestamp)
    said: Any = own.message  # text, or a dictionary with a traceback beside the text
    message = str(said["message"] if isinstance(said, dict) else said)
    ours = message.removeprefix("CurateError: ")
    return ours if ours != message else f"process {own.local_rank + 1} of {processes}: {message}"
