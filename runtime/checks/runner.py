"""ExecuTorch's stock multimodal runner, which phones link, on each golden."""

from collections.abc import Iterator, Mapping, Sequence

from runtime import metrics
from runtime.checks.delegation import FORMAT
from runtime.goldens import Golden
from runtime.greedy import Greedy, generate
from runtime.job import Job
from runtime.manifest import Measure
from runtime.metrics import GreedyMatch
from runtime.sessions.executorch import ExecutorchSession
from runtime.sessions.executorch_runner import NAME, StockRunner


def run(job: Job) -> Iterator[Measure]:
    """By golden: the runner cannot suppress tokens, so a golden that would have chosen one ends the comparison.

    Where it writes something else, the question is whether the program does so in our own session, too: what int8 costs
    is no matter of the runner.
    """
    texts = _texts(job)
    matches = {golden.name: _match(job, golden.tokens, texts[golden.name], golden.gaps) for golden in job.goldens}
    own = _own_texts(job, [golden for golden in job.goldens if matches[golden.name].errors])
    for golden in job.goldens:
        match, name = matches[golden.name], golden.name
        notes = [name, *(f"near tie at {at}" for at in match.near_ties), *(f"differs at {at}" for at in match.errors)]
        if name in own:
            gaps = metrics.top_gaps(own[name].logits).tolist()
            match = _match(job, own[name].chosen, texts[name], gaps)
            notes += [] if match.errors else ["as does the session"]
        yield job.measure("runner", "runner_greedy", len(match.errors), engine=NAME, modality=golden.modality,
                          note="; ".join(notes))  # fmt: skip


def _texts(job: Job) -> dict[str, list[int]]:
    """What the runner writes, by golden. It is closed when this returns."""
    runner, found = StockRunner(job.bundle / FORMAT), {}
    for golden in job.goldens:
        job.status(f"{NAME}: golden {golden.name}")
        found[golden.name] = runner.generate(golden.inputs, len(golden.tokens))
    return found


def _own_texts(job: Job, goldens: Sequence[Golden]) -> Mapping[str, Greedy]:
    """What our session writes with no token suppressed."""
    if not goldens:
        return {}
    session, tokens = ExecutorchSession(job.bundle / FORMAT), job.manifest.tokens.model_copy(update={"suppress": []})
    return {golden.name: generate(session, golden.inputs, tokens, len(golden.tokens)) for golden in goldens}


def _match(job: Job, wanted: Sequence[int], found: Sequence[int], gaps: Sequence[float]) -> GreedyMatch:
    """Where a text ends, the runner's must hold nothing more; it hands out some ends of a turn and keeps others."""
    ends = job.manifest.tokens.eos
    wanted = [metrics.NOTHING if token in ends else token for token in wanted]
    found = found[:-1] if found and found[-1] in ends else found
    return metrics.compare_generated(wanted, found, gaps, job.gates["near_tie"].bound)
