"""ExecuTorch's stock multimodal runner, which phones link, on each golden."""

from collections.abc import Iterator

from runtime import metrics
from runtime.checks.delegation import FORMAT
from runtime.job import Job
from runtime.manifest import Measure
from runtime.sessions.executorch_runner import NAME, StockRunner


def run(job: Job) -> Iterator[Measure]:
    """By golden: the runner cannot suppress tokens, so a golden that would have chosen one ends the comparison."""
    runner, ends = StockRunner(job.bundle / FORMAT), set(job.manifest.tokens.eos)
    for golden in job.goldens:
        job.status(f"{NAME}: golden {golden.name}")
        wanted = [token for token in golden.tokens if token not in ends]
        found = [token for token in runner.generate(golden.inputs, len(golden.tokens)) if token not in ends]
        match = metrics.compare_generated(wanted, found, golden.gaps, job.gates["near_tie"].bound)
        notes = [
            golden.name,
            *(f"near tie at {at}" for at in match.near_ties),
            *(f"differs at {at}" for at in match.errors),
        ]
        yield job.measure("runner", "runner_greedy", len(match.errors), engine=NAME, modality=golden.modality,
                          note="; ".join(notes))  # fmt: skip
