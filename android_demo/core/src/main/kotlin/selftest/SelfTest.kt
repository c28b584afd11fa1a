package dev.gemma4edge.core.selftest

import dev.gemma4edge.core.session.Session
import dev.gemma4edge.core.session.choose

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
)

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
