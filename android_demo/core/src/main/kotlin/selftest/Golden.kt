package dev.gemma4edge.core.selftest

import dev.gemma4edge.core.bundle.BundleException
import dev.gemma4edge.core.bundle.GoldenEntry
import dev.gemma4edge.core.bundle.Modality
import dev.gemma4edge.core.bundle.requireInside
import dev.gemma4edge.core.session.Frames
import dev.gemma4edge.core.session.ModelInputs
import dev.gemma4edge.core.session.Patches
import java.io.File
import java.io.IOException
import kotlinx.serialization.Serializable
import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject

/** `goldens/NAME.json`. */
@Serializable
data class GoldenFacts(
    val name: String,
    val modality: Modality,
    val messages: List<JsonObject>,
    val text: String,
    val tokens: List<Int>,
    val gaps: List<Double>
)

/**
 * A prompt with what the quantized reference makes of it.
 *
 * @property topIds `[steps][k]`, the likeliest tokens of each step, and [topLogits] their logits.
 */
class Golden(
    val facts: GoldenFacts,
    val inputs: ModelInputs,
    val topIds: List<IntArray>,
    val topLogits: List<FloatArray>
)

/**
 * Both files of a golden of the bundle in [folder].
 *
 * @throws BundleException one is missing or damaged.
 */
fun readGolden(folder: File, entry: GoldenEntry): Golden {
    try {
        val facts = Json.decodeFromString<GoldenFacts>(requireInside(folder, entry.file).readText())
        val tensors = readSafetensors(requireInside(folder, entry.tensors))
        val ids = tensors.getValue("top_ids")
        val width = ids.shape.last()
        val golden =
            Golden(
                facts,
                inputs(tensors),
                ids.longs().map { it.toInt() }.chunked(width) { it.toIntArray() },
                tensors.getValue("top_logits").floats().asList().chunked(width) { it.toFloatArray() }
            )
        val steps = facts.tokens.size
        require(
            steps > 0 && facts.gaps.size == steps && golden.topIds.size == steps && golden.topLogits.size == steps
        ) {
            "its $steps tokens, gaps and logits are not as many"
        }
        return golden
    } catch (error: BundleException) {
        throw error
    } catch (error: IOException) {
        throw damaged(entry, error)
    } catch (error: SerializationException) {
        throw damaged(entry, error)
    } catch (error: RuntimeException) { // missing tensors, axes that do not fit
        throw damaged(entry, error)
    }
}

private fun damaged(entry: GoldenEntry, error: Exception) = BundleException(
    "${entry.file} is no readable golden (${error.message?.lineSequence()?.first()}): export the bundle again",
    error
)

private fun inputs(tensors: Map<String, Tensor>) = ModelInputs(
    tensors.getValue("input_ids").longs().map { it.toInt() }.toIntArray(),
    images(tensors),
    clips(tensors)
)

/** Without the padding that shorter images have beside longer ones. */
private fun images(tensors: Map<String, Tensor>): List<Patches> {
    val pixels = tensors["pixel_values"] ?: return emptyList()
    val (images, cells, width) = pixels.shape
    val values = pixels.floats()
    val places = tensors.getValue("image_position_ids").longs()
    return List(images) { image ->
        val kept = (0 until cells).map { image * cells + it }.filter { places[2 * it] >= 0 }
        Patches(
            FloatArray(kept.size * width) { values[kept[it / width] * width + it % width] },
            IntArray(kept.size * 2) { places[2 * kept[it / 2] + it % 2].toInt() }
        )
    }
}

private fun clips(tensors: Map<String, Tensor>): List<Frames> {
    val features = tensors["input_features"] ?: return emptyList()
    val (clips, longest, width) = features.shape
    val values = features.floats()
    val there = tensors.getValue("input_features_mask").booleans()
    return List(clips) { clip ->
        val kept = (0 until longest).map { clip * longest + it }.filter { there[it] }
        Frames(FloatArray(kept.size * width) { values[kept[it / width] * width + it % width] }, width)
    }
}
