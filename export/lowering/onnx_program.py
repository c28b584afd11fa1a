"""A model as a folder that onnxruntime-genai opens as it is, and that plain onnxruntime runs too.

`decoder.onnx`, `embedding.onnx`, `vision.onnx` and `speech.onnx` share one `model.data`, in which a tied embedding is
stored once. A text model is `decoder.onnx` alone: nothing comes between its embedding and its layers.
"""

from pathlib import Path

from export.config import Audio, Image, Model
from export.graph.decoder import decode, embed_tokens
from export.graph.embedders import embed_audio, embed_image
from export.lowering.onnx_genai import write_genai_files
from export.lowering.onnx_graph import DataFile, Graph, Value
from export.lowering.onnx_ops import BOOL, FLOAT, INT64, OnnxOps
from export.weights import KvScales, Weights

DATA_FILE = "model.data"


def write_onnx(model: Model, weights: Weights, checkpoint: Path, folder: Path, context: int,
               kv_scales: KvScales | None = None) -> None:  # fmt: skip
    """Writes graphs, weights, tokenizer and configuration into an existing folder.

    Args:
        checkpoint: folder of the tokenizer, the processor's settings and the generation defaults.
        context: positions for which GenAI makes room unless its caller says otherwise.
        kv_scales: with them the caches are int8.
    """
    with DataFile(folder / DATA_FILE) as data:
        decoder_graph(model, weights, data, kv_scales).save(folder / "decoder.onnx")
        if model.takes_media:
            embedding_graph(model, weights, data).save(folder / "embedding.onnx")
        if model.image:
            vision_graph(model, model.image, weights, data).save(folder / "vision.onnx")
        if model.audio:
            speech_graph(model, model.audio, weights, data).save(folder / "speech.onnx")
    write_genai_files(model, checkpoint, folder, context)


def decoder_graph(model: Model, weights: Weights, data: DataFile, kv_scales: KvScales | None = None) -> Graph:
    """Embeddings [1, T, hidden], token ids and caches -> logits [1, 1, vocabulary] after the last position, and caches.

    Token ids say where images are; of a text model, they are all that goes in. The attention mask is all ones and says
    how many positions there are by now.
    """
    graph = Graph("decoder", data)
    ops = OnnxOps(graph, weights, model.tokens, kv_scales)
    if model.takes_media:
        embeddings = graph.input("inputs_embeds", FLOAT, [1, "step", model.text.hidden])
    else:
        embeddings = embed_tokens(ops, ops.step.input_ids(), model.text)
    logits = decode(ops, embeddings, model.text)
    _output(graph, logits, "logits", [1, 1, model.text.vocabulary])
    return graph


def embedding_graph(model: Model, weights: Weights, data: DataFile) -> Graph:
    """Token ids [1, T] and soft tokens of media -> embeddings [1, T, hidden]."""
    graph, hidden = Graph("embedding", data), model.text.hidden
    ops = OnnxOps(graph, weights, model.tokens)
    x = embed_tokens(ops, ops.step.input_ids(), model.text)
    if model.image:
        features = graph.input("image_features", FLOAT, ["image_tokens", hidden])
        x = _fill_in(graph, x, ops.step.vision(), features)
    if model.audio:
        features = graph.input("audio_features", FLOAT, ["audio_tokens", hidden])
        heard = graph.node("Equal", ops.step.input_ids(), graph.constant(model.tokens.audio))
        x = _fill_in(graph, x, heard, features)
    _output(graph, x, "inputs_embeds", [1, "step", hidden])
    return graph


def vision_graph(model: Model, image: Image, weights: Weights, data: DataFile) -> Graph:
    """Patches [images, patches, values] with their cells (-1 pads) -> soft tokens of all images, one after another."""
    graph = Graph("vision", data)
    patches = graph.input("pixel_values", FLOAT, ["images", "patches", image.patch_values])
    cells = graph.input("pixel_position_ids", INT64, ["images", "patches", 2])
    x = embed_image(OnnxOps(graph, weights, model.tokens), patches, cells, image)
    column = graph.node("Gather", cells, graph.constant(0), axis=2)
    valid = graph.node("GreaterOrEqual", column, graph.constant(0))
    _output(graph, _take_valid(graph, x, valid, model), "image_features", ["image_tokens", model.text.hidden])
    return graph


def speech_graph(model: Model, audio: Audio, weights: Weights, data: DataFile) -> Graph:
    """Frames [clips, frames, samples] with their mask -> soft tokens of all clips, one after another."""
    graph = Graph("speech", data)
    frames = graph.input("input_features", FLOAT, ["clips", "frames", audio.samples])
    valid = graph.input("input_features_mask", BOOL, ["clips", "frames"])
    x = embed_audio(OnnxOps(graph, weights, model.tokens), frames, audio)
    _output(graph, _take_valid(graph, x, valid, model), "audio_features", ["audio_tokens", model.text.hidden])
    return graph


def _fill_in(graph: Graph, x: Value, where: Value, features: Value) -> Value:
    """Puts features [n, hidden] in the n places of bool [1, T]."""
    places = graph.node("Transpose", graph.node("NonZero", where), perm=[1, 0])
    return graph.node("ScatterND", x, places, features)


def _take_valid(graph: Graph, x: Value, valid: Value, model: Model) -> Value:
    """[n, T, hidden] and bool [n, T] -> [valid ones, hidden]"""
    rows = graph.node("Reshape", x, graph.constant([-1, model.text.hidden]))
    return graph.node("Compress", rows, graph.node("Reshape", valid, graph.constant([-1])), axis=0)


def _output(graph: Graph, value: Value, name: str, shape: list[int | str]) -> None:
    graph.node("Identity", value, outputs=[name])
    graph.output(name, FLOAT, shape)
