"""Swift in front of the evaluator: goldens must come out, and conversations must go as Python's do."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ios_demo.checks.drive import Change, Inputs, Outcome, Packages, Turn, drive
from ios_demo.checks.results import Failed, Results
from runtime import goldens
from runtime.conversation import Conversation
from runtime.conversation import Turn as Said
from runtime.gates import GATES
from runtime.manifest import Attention, Host, read_manifest, write_manifest
from runtime.metrics import compare_forced
from runtime.prompt import Prompter, user
from runtime.sampling import Sampler
from runtime.sessions.coreml import CoremlSession

Command = Callable[..., Sequence[str]]  # words for `drive` -> a command for subprocess
LARGEST_KL = 1e-4  # nats, mean over positions; packages in fp16 have a tenth of it
CONTROL = "text"  # the golden that controls replay
TALK = "image-boot", "What is shown?", "And what is its colour?"  # a golden whose media the first question is about
LIMIT = 8  # tokens of an answer, as `drive` has it
THOUGHT = "<|channel>thought\n<channel|>"  # at the end of a prompt by the published template, and in no later one


def check_driving(command: Command, bundle: Path, results: Results) -> None:
    """Every golden, what is noticed if a slot or a mask is off by one, and a conversation."""
    manifest, packages = read_manifest(bundle), Packages(bundle)
    recorded = {entry.name: goldens.read(entry, bundle) for entry in manifest.goldens}

    def replay(name: str, change: Change = lambda inputs: inputs) -> str | None:
        (outcome,) = drive(command("replay", str(bundle), name), packages, change)
        assert isinstance(outcome, Outcome)
        return find_fault(outcome, recorded[name])

    for name in recorded:
        with results.check(f"Swift drives the packages through golden {name}"):
            if fault := replay(name):
                raise Failed(fault)
    for what, change in controls(packages.host).items():
        with results.check(f"control: {what} is noticed"):
            if not replay(CONTROL, change):
                raise Failed("tokens are equal, and the logits too")
    check_conversations(command, bundle, results)


def check_conversations(command: Command, bundle: Path, results: Results) -> None:
    """As the bundle's template writes them, and as the published one does."""
    with results.check("Swift holds a conversation as Python does, over one cache"):
        require_same_talk(command, bundle)
    with (
        TemporaryDirectory(dir=bundle.parent) as scratch,
        results.check("Swift takes the cache back as Python does, where the template writes turns anew"),
    ):
        require_same_talk(command, with_empty_thoughts(bundle, Path(scratch) / bundle.name))


def require_same_talk(command: Command, bundle: Path) -> None:
    packages = Packages(bundle)
    found, wanted = drive(command("converse", str(bundle), *TALK), packages), converse(bundle, packages.prompter)
    if found != wanted:
        raise Failed(f"Swift: {found}\nPython: {wanted}")
    first, second = wanted
    if second.prefilled >= first.prefilled:  # with the image, which is read once
        raise Failed(f"both prefill {second.prefilled} positions in the second turn")


def with_empty_thoughts(bundle: Path, copy: Path) -> Path:
    """Its template and its dialogue end a prompt as the published template does without thinking."""
    shutil.copytree(bundle, copy)
    template, manifest = copy / "chat_template.jinja", read_manifest(copy)
    text, begin = template.read_text(), "{{ '<|turn>model\\n' }}"
    if text.count(begin) != 1 or manifest.dialogue is None:
        raise Failed("the embedded model's template has changed")
    template.write_text(text.replace(begin, begin + THOUGHT))
    dialogue = manifest.dialogue.model_copy(update={"generation": manifest.dialogue.generation + THOUGHT})
    write_manifest(copy, manifest.model_copy(update={"dialogue": dialogue}))
    return copy


def converse(bundle: Path, prompter: Prompter) -> list[Turn]:
    """The same questions, by Python's own session over the same packages."""
    session, manifest = CoremlSession.open(bundle / "coreml"), read_manifest(bundle)
    greedy = Sampler(manifest.sampling.model_copy(update={"do_sample": False}), manifest.tokens)
    conversation = Conversation(session, prompter, manifest.tokens, greedy, session.host.context)
    picture, *texts = TALK
    media = [str(bundle / goldens.FOLDER / f"{picture.removeprefix('image-')}.png")]
    turns = [_say(conversation, text, media if text == texts[0] else []) for text in texts]
    return [Turn(turn.tokens, turn.reply.text, turn.prefilled, turn.ended) for turn in turns]


def _say(conversation: Conversation, text: str, images: Sequence[str]) -> Said:
    turn = Said()
    for _ in conversation.say(user(text, images=images), turn, LIMIT):
        pass
    return turn


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
