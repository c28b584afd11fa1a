"""A model as Core ML packages: the decoder in chunks of layers, its head, the media embedders; and the embedding table.

A chunk is a run of layers that ends with a full one, or earlier where its package would grow too large. It has two
functions that share weights and caches: `prefill` for a step of a prompt, and `decode` for one token.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import coremltools as ct
from coremltools import _SPECIFICATION_VERSION_IOS_18 as IOS_18
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.backend.mil.load import CoreMLProtoExporter
from coremltools.converters.mil.converter import _reset_conversion_state
from coremltools.converters.mil.mil import Function, Program, Var
from coremltools.libmodelpackage import ModelPackage

from export.config import FULL, Audio, Image, Layer, Model, Text
from export.graph.decoder import decoder_layer, project_logits, run_layers
from export.graph.embedders import embed_audio, embed_image
from export.graph.vocabulary import weights_of
from export.lowering.coreml_ops import FP16, FP32, INT32, LARGEST_LINEAR, STATE, STREAM, MilOps, Step, of_kind
from export.lowering.coreml_ports import Sizes, attention_of, describe_function
from export.lowering.coreml_weights import Blob, RowsOf, StreamingExporter, WeightFile, stored_bytes
from export.weights import Weights
from runtime import manifest
from runtime.errors import UserError
from runtime.manifest import Attention

LARGEST_PACKAGE = 10**9  # bytes
SPARE = 32 * 10**6  # of them, for the program itself
IDENTITY = "identity"  # key of a package's metadata

Programs = dict[str, manifest.Program]  # by role


@dataclass(frozen=True)
class Writer:
    """Where packages go, and what all of them have in common."""

    folder: Path
    weights: Weights
    identity: str
    dtype: type  # of the decoder's activations

    def package(self, role: str, functions: "dict[str, Described]", weights: Weights | None = None) -> Programs:
        """Builds the functions and writes them with their weights; returns what they take and give."""
        file = f"{role}.mlpackage"
        blobs: dict[str, Blob] = {}
        built = {name: function.build(weights or self.weights, blobs) for name, function in functions.items()}
        save(built, blobs, self.folder / file, {IDENTITY: self.identity})
        if len(built) == 1:
            return {role: describe_function(file, *built.values())}
        return {f"{role}.{name}": describe_function(file, function, name) for name, function in built.items()}


@dataclass(frozen=True)
class Described:
    """A function: what it takes, and the description that it runs."""

    specs: dict[str, Any]
    output: str
    dtype: type
    describe: Callable[[MilOps, dict[str, Var]], Var]
    step: Callable[[dict[str, Var]], Step] | None = None

    def build(self, weights: Weights, blobs: dict[str, Blob]) -> Function:
        with Function(self.specs, opset_version=ct.target.iOS18) as function:
            inputs = dict(function.inputs)
            ops = MilOps(weights, self.dtype, blobs, self.step(inputs) if self.step else None)
            function.set_outputs([mb.identity(x=self.describe(ops, inputs), name=self.output)])
        return function


def write_packages(model: Model, weights: Weights, folder: Path, sizes: Sizes, identity: str,
                   dtype: type = FP16) -> Programs:  # fmt: skip
    """Writes all packages into an existing folder, at no point holding more than one dense weight.

    Args:
        identity: stored in each package, so that one of another bundle is noticed.
        dtype: of the decoder's activations. FP32 gives a float twin, whose weights and caches are the same.

    Returns:
        Programs by role, files relative to the folder.
    """
    writer = Writer(folder, weights, identity, dtype)
    programs: Programs = {}
    for index, layers in enumerate(cut_layers(model.text.layers, weights)):
        programs |= writer.package(f"chunk_{index:02}", chunk(layers, model.text, sizes, dtype))
    for index, rows in enumerate(cut_head(model.text, weights)):
        part = RowsOf(weights, f"{model.text.head}.weight", rows.start, rows.stop)
        programs |= writer.package(f"head_{index:02}", {"main": head(model.text, dtype)}, part)
    if model.image:
        programs |= writer.package("vision", {"main": vision(model.image, sizes.image_tokens)})
    if model.audio:
        programs |= writer.package("speech", {"main": speech(model.audio, sizes.audio_tokens)})
    return programs


# What goes into which package


def cut_layers(layers: Sequence[Layer], weights: Weights) -> Iterator[list[Layer]]:
    """Runs of layers whose weights fit a package."""
    run: list[Layer] = []
    size = 0
    for layer in layers:
        bytes_ = sum(stored_bytes(weights, name) for name in weights_of(decoder_layer, None, layer))
        if run and (run[-1].kind == FULL or size + bytes_ > LARGEST_PACKAGE - SPARE):
            yield run
            run, size = [], 0
        run.append(layer)
        size += bytes_
    yield run


def cut_head(text: Text, weights: Weights) -> Iterator[range]:
    """Rows of the head that fit a package, in multiples of what one linear takes."""
    size = stored_bytes(weights, f"{text.head}.weight")
    linears = max(1, (LARGEST_PACKAGE - SPARE) * text.vocabulary // size // LARGEST_LINEAR)
    for start in range(0, text.vocabulary, linears * LARGEST_LINEAR):
        yield range(start, min(start + linears * LARGEST_LINEAR, text.vocabulary))


# The functions


def chunk(layers: Sequence[Layer], text: Text, sizes: Sizes, dtype: type) -> dict[str, Described]:
    """hidden_states -> hidden_states_out, and caches."""
    return {
        name: _layers(layers, text, sizes, tokens, dtype)
        for name, tokens in (("decode", 1), ("prefill", sizes.prefill))
    }


def _layers(layers: Sequence[Layer], text: Text, sizes: Sizes, tokens: int, dtype: type) -> Described:
    attention = attention_of(layers, sizes)
    owners = {kind: [layer.index for layer in of_kind(layers, kind) if layer.owns_cache] for kind in attention}
    specs = {"hidden_states": mb.TensorSpec((1, tokens, text.hidden), STREAM)}
    for kind, names in attention.items():
        specs |= _step_specs(names, tokens, dtype)
        specs |= _state_spec(names, len(owners[kind]), of_kind(layers, kind)[0])
    return Described(
        specs,
        "hidden_states_out",
        dtype,
        lambda ops, inputs: run_layers(ops, inputs["hidden_states"], layers),
        lambda inputs: Step(tokens, inputs, attention, owners),
    )


def _step_specs(names: Attention, tokens: int, dtype: type) -> dict[str, Any]:
    """What the host computes for layers of a kind."""
    specs = {names.mask: mb.TensorSpec((1, 1, tokens, names.slots), dtype)}
    specs |= {name: mb.TensorSpec((1, 1, tokens, names.head_dim), dtype) for name in (names.cos, names.sin)}
    if names.write is None or names.keep is None or tokens == 1:
        return specs | {names.slot: mb.TensorSpec((1,), INT32)}
    return specs | {names.write: mb.TensorSpec((1, 1, names.slots, tokens), STATE),
                    names.keep: mb.TensorSpec((1, 1, names.slots, 1), STATE)}  # fmt: skip


def _state_spec(names: Attention, layers: int, layer: Layer) -> dict[str, Any]:
    return {names.state: mb.StateTensorSpec((2 * layers, layer.kv_heads, names.slots, layer.head_dim), STATE)}


def head(text: Text, dtype: type) -> Described:
    """hidden_states of one position -> logits"""
    specs = {"hidden_states": mb.TensorSpec((1, 1, text.hidden), STREAM)}
    return Described(specs, "logits", dtype, lambda ops, inputs: project_logits(ops, inputs["hidden_states"], text))


def vision(image: Image, tokens: int) -> Described:
    """patches, cells -> soft_tokens. In fp32 throughout: raw values come in, and it runs once for an image."""
    specs = {
        "patches": mb.TensorSpec((1, tokens, image.patch_values), FP32),
        "cells": mb.TensorSpec((1, tokens, 2), INT32),
    }
    return Described(specs, "soft_tokens", FP32,
                     lambda ops, inputs: embed_image(ops, inputs["patches"], inputs["cells"], image))  # fmt: skip


def speech(audio: Audio, tokens: int) -> Described:
    """frames -> soft_tokens, in fp32 too."""
    specs = {"frames": mb.TensorSpec((1, tokens, audio.samples), FP32)}
    return Described(specs, "soft_tokens", FP32, lambda ops, inputs: embed_audio(ops, inputs["frames"], audio))


# Packages


def save(functions: dict[str, Function], blobs: dict[str, Blob], path: Path, metadata: dict[str, str]) -> None:
    """Writes a package. No passes run over it: they would merge reads of a state across its updates.

    Raises:
        UserError: it grew too large.
    """
    program = _program(functions)
    shutil.rmtree(path, ignore_errors=True)
    with TemporaryDirectory(dir=path.parent) as work:
        weights, model, empty = Path(work, "weight.bin"), Path(work, "model.mlmodel"), Path(work, "weights")
        with WeightFile(weights) as file:
            exported = StreamingExporter(program, blobs, file, IOS_18).export()
        spec = CoreMLProtoExporter(program, exported, "", "", None, "mlprogram", "milinternal", IOS_18).export(IOS_18)
        spec.description.metadata.userDefined.update(metadata)
        model.write_bytes(spec.SerializeToString())
        empty.mkdir()
        _package(path, model, empty)
        weights.rename(path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin")
    _reset_conversion_state()
    size = sum(file_.stat().st_size for file_ in path.rglob("*") if file_.is_file())
    if size >= LARGEST_PACKAGE:
        raise UserError(
            f"{path.name} takes {size} bytes, a package may take {LARGEST_PACKAGE}: choose a smaller recipe"
        )


def _program(functions: dict[str, Function]) -> Program:
    program = Program()
    for name, function in functions.items():
        program.add_function(name, function)
    program.default_function_name = next(iter(functions))
    program.export_as_multifunction = len(functions) > 1
    return program


def _package(path: Path, model: Path, weights: Path) -> None:
    """As coremltools makes it; weights are moved in afterwards, which spares a copy."""
    package = ModelPackage(str(path))
    package.setRootModel(str(model), "model.mlmodel", "com.apple.CoreML", "CoreML Model Specification")
    package.addItem(str(weights), "weights", "com.apple.CoreML", "CoreML Model Weights")
