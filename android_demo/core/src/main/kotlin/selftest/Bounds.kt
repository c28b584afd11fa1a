package dev.gemma4edge.core.selftest

import dev.gemma4edge.core.bundle.Modality
import dev.gemma4edge.core.bundle.Verification

/** Nats, and a share: how far the recorded logits of goldens may be from the reference's. */
const val KL_MEAN = 0.005
const val RMS = 0.03

/** In the note of a bound that an export got by doing the engine's arithmetic in torch; others are of its machine. */
private const val IN_TORCH = "in torch"
private val ENGINES = mapOf("onnx" to "onnxruntime", "executorch" to "executorch")

/** How far an engine may be from the reference in one modality; [greedy] goldens may have other tokens, as in torch. */
data class Bounds(val greedy: Double = 0.0, val klMean: Double = KL_MEAN, val rms: Double = RMS)

/** Those of `runtime/gates.py`, or wider ones that the bundle's export recorded for a format's engine. */
fun bounds(verification: Verification?, format: String, modality: Modality): Bounds {
    val recorded = verification?.measures.orEmpty().filter {
        it.check == "goldens" && it.engine == ENGINES[format] && it.modality == modality.name.lowercase() &&
            IN_TORCH in it.note
    }

    fun of(name: String) = recorded.firstOrNull { it.name == name }?.bound ?: 0.0
    return Bounds(of("golden_greedy"), maxOf(KL_MEAN, of("golden_kl_mean")), maxOf(RMS, of("golden_rms")))
}

/**
 * What an engine made of all goldens of one modality, by the figures that `runtime/checks/goldens.py` judges.
 *
 * @property greedy how many goldens have other tokens; [klMean] over the steps of all, [rms] of the worst.
 */
data class Judgement(val greedy: Int, val klMean: Double, val rms: Double, val bounds: Bounds) {
    /** Figures beyond their bounds, in words; what is no number is beyond all. */
    val failing: List<String>
        get() = listOfNotNull(
            "other tokens in $greedy, ${bounds.greedy.toInt()} allowed".takeUnless { greedy <= bounds.greedy },
            "mean KL %.1e, %.1e allowed".format(klMean, bounds.klMean).takeUnless { klMean <= bounds.klMean },
            "relative rms %.1e, %.1e allowed".format(rms, bounds.rms).takeUnless { rms <= bounds.rms }
        )
    val passed get() = failing.isEmpty()
}

/** Of one modality's [results], which are not empty. */
fun judge(results: List<GoldenResult>, bounds: Bounds = Bounds()) = Judgement(
    results.count { !it.greedy.equal },
    results.flatMap { it.kl }.average(),
    results.maxOf { it.rms },
    bounds
)
