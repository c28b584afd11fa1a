package dev.gemma4edge.core.selftest

import dev.gemma4edge.core.bundle.Modality
import dev.gemma4edge.core.bundle.Verification

/** Nats, and a share: how far the recorded logits of a golden may be from the reference's. */
const val KL_MEAN = 0.005
const val RMS = 0.03

/** In the note of a bound that an export got by doing the engine's arithmetic in torch; others are of its machine. */
private const val IN_TORCH = "in torch"
private val ENGINES = mapOf("onnx" to "onnxruntime", "executorch" to "executorch")

/** How far an engine may be from the reference. With [otherTokens] it may choose others, as torch does. */
data class Bounds(val klMean: Double = KL_MEAN, val rms: Double = RMS, val otherTokens: Boolean = false)

/** Those of `runtime/gates.py`, or wider ones that the bundle's export recorded for a format's engine. */
fun bounds(verification: Verification?, format: String, modality: Modality): Bounds {
    val recorded = verification?.measures.orEmpty().filter {
        it.check == "goldens" && it.engine == ENGINES[format] && it.modality == modality.name.lowercase() &&
            IN_TORCH in it.note
    }

    fun of(name: String) = recorded.firstOrNull { it.name == name }?.bound ?: 0.0
    return Bounds(maxOf(KL_MEAN, of("golden_kl_mean")), maxOf(RMS, of("golden_rms")), of("golden_greedy") > 0)
}
