"""Swift's bookkeeping in front of the evaluator: the packages must write what the reference wrote."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ios_demo.checks.drive import Change, Inputs, Outcome, Packages, replay
from ios_demo.checks.results import Failed, Results
from runtime import goldens
from runtime.gates import GATES
from runtime.manifest import Attention, Host, read_manifest
from runtime.metrics import compare_forced

Drive = Callable[[str], Sequence[str]]  # the name of a golden -> the command that replays it
LARGEST_KL = 1e-4  # nats, mean over positions; packages in fp16 have a tenth of it
CONTROL = "text"  # the golden that controls replay


def check_driving(drive: Drive, bundle: Path, results: Results) -> None:
    """Every golden, and what is noticed if a slot or a mask is off by one."""
    manifest, packages = read_manifest(bundle), Packages(bundle)
    recorded = {entry.name: goldens.read(entry, bundle) for entry in manifest.goldens}
    for name, golden in recorded.items():
        with results.check(f"Swift drives the packages through golden {name}"):
            (outcome,) = replay(drive(name), packages)
            if fault := find_fault(outcome, golden):
                raise Failed(fault)
    for what, change in controls(packages.host).items():
        with results.check(f"control: {what} is noticed"):
            (outcome,) = replay(drive(CONTROL), packages, change)
            if not find_fault(outcome, recorded[CONTROL]):
                raise Failed(f"tokens are equal and the KL is {np.mean(outcome.kl):.1e}")


def find_fault(outcome: Outcome, golden: goldens.Golden) -> str | None:
    """None if tokens equal the reference's, near ties excepted, and so does what Swift makes of them."""
    match = compare_forced(golden.tokens, outcome.chosen, golden.gaps, GATES["near_tie"].bound)
    if list(match.errors) != outcome.errors:
        return f"Swift counts errors at {outcome.errors}, Python at {match.errors}"
    if not match.equal:
        return f"other tokens at {match.errors}: {outcome.chosen} instead of {golden.tokens}"
    return None if np.mean(outcome.kl) < LARGEST_KL else f"the mean KL is {np.mean(outcome.kl):.1e}"


def controls(host: Host) -> dict[str, Change]:
    """Of each kind of layers, a mask and a slot that are off by one."""
    found: dict[str, Change] = {}
    for kind, layers in host.attention.items():
        found[f"a shifted mask of {kind} layers"] = shifted([layers.mask], -1)
        found[f"a shifted slot of {kind} layers"] = later_slot(layers)
    return found


def shifted(names: Sequence[str], axis: int) -> Change:
    """Those inputs, by one along an axis."""
    return lambda inputs: inputs | {name: np.roll(inputs[name], 1, axis) for name in names if name in inputs}


def later_slot(layers: Attention) -> Change:
    """A position goes to the slot behind its own. Prefills of rings are placed by matrices, all else by a number."""

    def change(inputs: Inputs) -> Inputs:
        moved = {layers.slot: (inputs[layers.slot] + 1) % layers.slots}
        placed = [name for name in (layers.write, layers.keep) if name]
        return shifted(placed, 2)(inputs | moved)

    return change
