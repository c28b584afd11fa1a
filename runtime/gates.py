"""The bars of a verification, in one table. `--gate name=value` overrides a bound."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from runtime.errors import UserError, printable
from runtime.manifest import Measure


@dataclass(frozen=True)
class Gate:
    """A bound that a measure must keep."""

    bound: float
    at_least: bool  # otherwise at most
    about: str

    def holds(self, value: float) -> bool:
        """A value that is no number holds no gate."""
        return value >= self.bound if self.at_least else value <= self.bound


def at_most(bound: float, about: str) -> Gate:
    return Gate(bound, False, about)


def at_least(bound: float, about: str) -> Gate:
    return Gate(bound, True, about)


Gates = dict[str, Gate]

NO_NUMBER = 1e9  # stands for infinity and NaN, which JSON does not have

GATES: Gates = {
    # files, bytes, template
    "files_wrong": at_most(0, "files missing, not listed, or of another size or sha256"),
    "weights_wrong": at_most(0, "weights missing or with another digest than the quantizer's"),
    "packages_wrong": at_most(0, "faults of Core ML packages, found without running them"),
    "package_size": at_most(1e9, "bytes of a Core ML package; phones map and compile one as a whole"),
    "undelegated": at_most(0, "quantized linears that ExecuTorch runs outside XNNPACK"),
    "prompts_wrong": at_most(0, "goldens whose messages no longer render to their tokens"),
    "dialogue_wrong": at_most(0, "conversations that the manifest's pieces of text make another prompt of"),
    "copies_wrong": at_most(0, "files copied into an artifact that differ from the original"),
    # where there are no goldens
    "answers_wrong": at_most(0, "kinds of input that an engine answers with no numbers, or with the same to all"),
    # goldens, by the shipped engines
    "golden_missing": at_most(0, "kinds of input that the model takes and no golden has"),
    "golden_greedy": at_most(0, "goldens with other greedy tokens, near ties excepted"),
    "golden_kl_mean": at_most(5e-3, "nats, over the recorded top logits"),
    "golden_rms": at_most(3e-2, "of the recorded top logits, relative"),
    "runner_greedy": at_most(0, "goldens that ExecuTorch's stock runner continues otherwise, near ties excepted"),
    # lowering: the artifact against the quantized reference
    "twin_rms": at_most(1e-5, "float twin, relative"),
    "twin_rms_int8_cache": at_most(1e-2, "the same with int8 keys and values, whose roundings fall otherwise"),
    "twin_rms_coreml": at_most(3e-4, "the same of Core ML packages, keys and values being fp16 in the reference too"),
    "twin_kl_coreml": at_most(1e-5, "nats, likewise"),
    "kl_fp16": at_most(2, "KL of a Core ML package, as a multiple of that of transformers' own fp16 run"),
    "kl_mean": at_most(2e-3, "nats; or no worse than the same int8 arithmetic in torch"),
    "top_1": at_least(0.99, "same first token; or no worse than the same int8 arithmetic in torch"),
    "row_median": at_most(1e-5, "the same int8 arithmetic in torch, two tokens at a time; median of rows, relative"),
    "row_twentieth": at_most(1e-5, "the same where keys and values are rounded too: of the best twentieth of rows"),
    "flips": at_most(0, "positions with another first token, near ties excepted; or few that int8 in torch explains"),
    "near_tie": at_most(0.25, "logits; below this gap of the reference's top two a greedy token may differ"),
    "cache_kl": at_most(2e-2, "nats that int8 keys and values cost"),
    # quantization: the quantized reference against the source
    "quantization_kl": at_most(0.2, "nats"),
    "quantization_top_1": at_least(0.8, "same first token"),
    "perplexity_ratio": at_most(1.15, "quantized to source"),
    "accuracy_drop": at_most(0.05, "of image and audio accuracy"),
    # preprocessing: the engine's own against the checkpoint's processor
    "other_tokens": at_most(0, "tokens of a prompt missing or inserted"),
    "other_tokens_media": at_most(4, "the same beside media, around which onnxruntime-genai puts blank lines"),
    "other_values": at_most(1e-6, "largest difference of a pixel or sample"),
    "values_kl": at_most(1e-6, "nats that other values cost"),
    "values_kl_resized": at_most(0.05, "the same for resized images, whose values differ here and there"),
    "own_kl": at_most(0.5, "nats that other tokens and values cost together; blank lines are most of it"),
    "own_greedy": at_most(0, "prompts with other greedy tokens, near ties excepted"),
    # beside an older bundle (--baseline): by which share it may be exceeded
    "baseline_lost": at_most(0, "formats that are gone, or what a check measured and measures no more"),
    "baseline_fidelity": at_most(0.1, "growth of an error; one below a twentieth of its own bound counts as that"),
    "baseline_size": at_most(0.01, "growth of an artifact's bytes"),
    "baseline_memory": at_most(0.01, "growth of a cache, or of all that an engine holds"),
    "baseline_speed": at_most(0.25, "growth of the time to prefill or decode, both bundles taking turns"),
}


def measured(
    gates: Gates, check: str, name: str, value: float, gate: Gate | None = None,
    engine: str | None = None, modality: str | None = None, note: str = "",
) -> Measure:  # fmt: skip
    """A figure beside its gate: the one of its name unless given; without one it is only reported."""
    gate = gate or gates.get(name)
    bound, at_least, passed = (gate.bound, gate.at_least, gate.holds(value)) if gate else (None, False, True)
    stored = value if math.isfinite(value) else NO_NUMBER
    return Measure(check=check, engine=engine, modality=modality, name=name, value=stored, bound=bound,
                   at_least=at_least, passed=passed, note=printable(note))  # fmt: skip


def override(gates: Gates, settings: Iterable[str]) -> Gates:
    """`gates` with the bounds of "name=value" settings.

    Raises:
        UserError: a setting of another form, or for a gate that does not exist.
    """
    changed = dict(gates)
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in gates:
            raise UserError(f"no gate {name!r}; there are {', '.join(gates)}")
        try:
            changed[name] = replace(gates[name], bound=float(value))
        except ValueError:
            raise UserError(f"--gate {setting}: write it as {name}=NUMBER") from None
    return changed
