"""Work on all cores, a thread each: what is compiled, and torch on large tensors, let others run meanwhile."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Result = TypeVar("Result")


@contextmanager
def worker_pool() -> Iterator[Executor]:
    """A thread per core, and one core per thread: torch's own threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def in_order(pool: Executor, work: Iterable[Callable[[], Result]]) -> Iterator[Result]:
    """Results in the order of the work; only a few blocks are on their way at any time."""
    underway: deque[Future[Result]] = deque()
    for call in work:
        underway.append(pool.submit(call))
        if len(underway) > 2 * (os.cpu_count() or 1):
            yield underway.popleft().result()
    while underway:
        yield underway.popleft().result()
