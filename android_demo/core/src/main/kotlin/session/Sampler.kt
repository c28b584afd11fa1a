package dev.gemma4edge.core.session

import dev.gemma4edge.core.bundle.Sampling
import java.util.PriorityQueue
import kotlin.math.exp
import kotlin.random.Random

/** Chooses tokens; [suppressed] ones never come. */
class Sampler(
    private val sampling: Sampling,
    private val suppressed: List<Int>,
    private val random: Random = Random.Default
) {
    /** The next token after [logits]: the likeliest, or one by chance as [sampling] says. */
    operator fun invoke(logits: FloatArray): Int {
        if (!sampling.doSample || sampling.temperature == 0.0) return choose(logits, suppressed)
        val chances = probabilities(suppress(logits, suppressed), sampling)
        var left = random.nextDouble()
        for ((token, chance) in chances) {
            left -= chance
            if (left < 0) return token
        }
        return chances.first().first // rounding left a trace
    }
}

/** The greedy token; of equal logits the first. */
fun choose(logits: FloatArray, suppressed: List<Int>): Int {
    val kept = suppress(logits, suppressed)
    return kept.indices.maxBy { kept[it] }
}

/** A copy with minus infinity at suppressed ids. */
fun suppress(logits: FloatArray, suppressed: List<Int>): FloatArray =
    logits.copyOf().also { kept -> suppressed.forEach { kept[it] = Float.NEGATIVE_INFINITY } }

/**
 * Tokens with their chances, likeliest first, after temperature, top-k and top-p, in this order, as transformers'
 * `generate()` applies them. Top-p keeps the smallest set of the likeliest whose chances add up to at least it.
 */
fun probabilities(logits: FloatArray, sampling: Sampling): List<Pair<Int, Double>> {
    val count = if (sampling.topK == 0) logits.size else minOf(sampling.topK, logits.size)
    val kept = likeliest(logits, count)
    val top = logits[kept.first()].toDouble()
    val raised = kept.map { exp((logits[it] - top) / sampling.temperature) }
    val sum = raised.sum()
    var before = 0.0
    val within = raised.map { it / sum }.takeWhile { chance -> (before < sampling.topP).also { before += chance } }
    val chances = within.ifEmpty { listOf(1.0) }
    val all = chances.sum()
    return kept.zip(chances.map { it / all })
}

/** Ids of the [count] largest logits, largest first, without sorting a whole vocabulary. */
private fun likeliest(logits: FloatArray, count: Int): List<Int> {
    val kept = PriorityQueue<Int>(count, compareBy { logits[it] })
    for (id in logits.indices) {
        if (kept.size < count) {
            kept += id
        } else if (logits[id] > logits[kept.peek()]) {
            kept.poll()
            kept += id
        }
    }
    return kept.sortedWith(compareByDescending<Int> { logits[it] }.thenBy { it })
}
