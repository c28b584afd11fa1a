"""Runs the packages of a bundle with the inputs that DemoCore's executable `drive` makes for them.

Swift does everything that a phone's processor would: prompts, embeddings, masks, rotations, ring slots, padding, soft
tokens, greedy choice. Here is only what Core ML would do, by the evaluator, and the tokenizer.
"""

import json
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from ios_demo.checks.results import Failed
from runtime.manifest import Artifact, Host, Port, read_manifest
from runtime.mil import Package
from runtime.mil.evaluator import State
from runtime.prompt import Prompter

Inputs = dict[str, NDArray]
Change = Callable[[Inputs], Inputs]


@dataclass(frozen=True)
class Outcome:
    """Of a golden, as Swift's self-test tells it."""

    name: str
    chosen: list[int]  # greedy tokens, each after the golden's earlier ones
    errors: list[int]  # positions where they differ from the golden's
    kl: list[float]  # nats, by position
    rms: float  # relative


@dataclass(frozen=True)
class Turn:
    """Of a conversation, as Swift tells it."""

    tokens: list[int]
    text: str
    prefilled: int  # positions
    ended: str


TOLD: dict[str, type[Outcome] | type[Turn]] = {"outcome": Outcome, "turn": Turn}


class Packages:
    """Those of a bundle, with a state for each chunk."""

    def __init__(self, bundle: Path) -> None:
        self.artifact: Artifact = read_manifest(bundle).artifacts["coreml"]
        self.host = cast(Host, self.artifact.host)
        self.chunks = [Package(bundle / file) for file in self.host.chunks]
        self.heads = [Package(bundle / file) for file in self.host.heads]
        self.embedders: dict[str, Package] = {role: Package(bundle / self.artifact.programs[role].file)
                          for role in ("vision", "speech") if role in self.artifact.programs}  # fmt: skip
        self.states: list[State] = []
        self.prompter = Prompter(bundle)

    def reset(self) -> None:
        self.states = [chunk.new_state() for chunk in self.chunks]

    def run_chunks(self, function: str, inputs: Inputs, row: int) -> NDArray[np.float32]:
        """[1, 1, hidden] of a position"""
        for index, (chunk, state) in enumerate(zip(self.chunks, self.states, strict=True)):
            ports = self.artifact.programs[f"chunk_{index:02}.{function}"].inputs
            found = chunk.run(function, cast_to(ports, inputs), state)
            inputs = inputs | {"hidden_states": found["hidden_states_out"]}
        return inputs["hidden_states"][:, row : row + 1].astype(np.float32)

    def run_heads(self, inputs: Inputs) -> NDArray[np.float32]:
        """[vocabulary]"""
        ports = self.artifact.programs["head_00"].inputs
        parts = [head.run("main", cast_to(ports, inputs))["logits"].reshape(-1) for head in self.heads]
        return np.concatenate(parts).astype(np.float32)

    def embed(self, role: str, inputs: Inputs) -> NDArray[np.float32]:
        """[1, n, hidden]"""
        ports = self.artifact.programs[role].inputs
        return self.embedders[role].run("main", cast_to(ports, inputs))["soft_tokens"].astype(np.float32)

    def encode(self, text: str) -> NDArray[np.float32]:
        """[n]: ids, all of which a float32 holds exactly."""
        return self.prompter.encode(text).astype(np.float32)


def cast_to(ports: Sequence[Port], inputs: Inputs) -> Inputs:
    """Those that are named, in the declared dtypes."""
    return {port.name: inputs[port.name].astype(port.dtype) for port in ports}


def drive(command: Sequence[str], packages: Packages, change: Change = lambda inputs: inputs) -> list[Outcome | Turn]:
    """
    Args:
        command: starts `drive` with what it shall do.
        change: of the decoder's inputs before they are run, for controls.

    Raises:
        Failed: Swift gave up; it has said why.
    """
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        told = list(_serve(process.stdout, process.stdin, packages, change))
    if process.returncode:
        raise Failed(f"drive ended with {process.returncode}")
    return told


def _serve(asked: IO[bytes], answers: IO[bytes], packages: Packages, change: Change) -> Iterator[Outcome | Turn]:
    for line in asked:
        request = json.loads(line)
        if (call := request.pop("call")) in TOLD:
            yield TOLD[call](**request)
        elif call == "reset":
            packages.reset()
        else:
            _answer(answers, _run(call, request, _read(asked, request["inputs"]), packages, change))


def _run(call: str, request: dict[str, Any], inputs: Inputs, packages: Packages, change: Change) -> NDArray[np.float32]:
    match call:
        case "chunks":
            return packages.run_chunks(request["function"], change(inputs), request["row"])
        case "heads":
            return packages.run_heads(inputs)
        case "embed":
            return packages.embed(request["function"], inputs)
        case _:
            return packages.encode(request["function"])


def _read(asked: IO[bytes], ports: Sequence[dict[str, Any]]) -> Inputs:
    return {port["name"]: np.frombuffer(asked.read(4 * int(np.prod(port["shape"]))), "<f4").reshape(port["shape"])
            for port in ports}  # fmt: skip


def _answer(answers: IO[bytes], array: NDArray[np.float32]) -> None:
    answers.write(struct.pack(f"<{1 + array.ndim}I", array.ndim, *array.shape) + array.astype("<f4").tobytes())
    answers.flush()
