package dev.gemma4edge.core.selftest

import dev.gemma4edge.core.session.Session
import dev.gemma4edge.core.session.choose

/** Nats, and a share: how far the recorded logits of a golden may be from the reference's. */
const val KL_MEAN = 0.005
const val RMS = 0.03

/**
 * An engine on one golden.
 *
 * @property kl nats by step, over the recorded top logits; [rms] relative, [largest] in logits.
 */
data class GoldenResult(
    val name: String,
    val greedy: GreedyMatch,
    val kl: List<Double>,
    val rms: Double,
    val largest: Double
) {
    val klMean get() = kl.average()

    /** By the bounds of `runtime/gates.py`. */
    val passed get() = greedy.equal && klMean <= KL_MEAN && rms <= RMS
}

/** Runs [session] on the golden's inputs and feeds it the golden's tokens, so that each step stands for itself. */
fun replay(golden: Golden, session: Session, suppressed: List<Int>, nearTie: Double = NEAR_TIE): GoldenResult {
    session.reset()
    val tokens = golden.facts.tokens
    val chosen = ArrayList<Int>()
    val found = ArrayList<FloatArray>()
    for (step in tokens.indices) { // a step's logits are as large as the vocabulary: they are not kept
        val logits = if (step == 0) session.prefill(golden.inputs) else session.decode(tokens[step - 1])
        chosen += choose(logits, suppressed)
        found += FloatArray(golden.topIds[step].size) { logits[golden.topIds[step][it]] }
    }
    return GoldenResult(
        golden.facts.name,
        compareForced(tokens, chosen, golden.facts.gaps, nearTie),
        golden.topLogits.zip(found, ::klDivergence),
        relativeRms(golden.topLogits, found),
        largestDifference(golden.topLogits, found)
    )
}
