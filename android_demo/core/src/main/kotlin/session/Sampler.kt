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
        return draw(probabilities(suppress(logits, suppressed), sampling), random.nextDouble())
    }
}

/** Tokens that may come, in ascending order, with their chances, which add up to 1. */
class Chances(val tokens: List<Int>, val values: List<Double>)

/** The first token at which chances add up to more than [number], which is drawn evenly from 0 until 1. */
fun draw(chances: Chances, number: Double): Int {
    val sums = chances.values.runningReduce(Double::plus)
    val at = sums.indexOfFirst { it / sums.last() > number }
    return chances.tokens[if (at < 0) chances.tokens.lastIndex else at]
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
 * Chances after temperature, top-k and top-p, in this order, as transformers' `generate()` applies them. Top-p keeps the
 * smallest set of the likeliest tokens whose chances add up to at least it.
 */
fun probabilities(logits: FloatArray, sampling: Sampling): Chances {
    val count = if (sampling.topK == 0) logits.size else minOf(sampling.topK, logits.size)
    val kept = likeliest(logits, count)
    val top = logits[kept.first()] / sampling.temperature
    val raised = kept.map { exp(logits[it] / sampling.temperature - top) }
    val sum = raised.sum()
    var before = 0.0
    val within = raised.map { it / sum }.takeWhile { chance -> (before < sampling.topP).also { before += chance } }
    val all = within.sum()
    val (tokens, values) = kept.zip(within).sortedBy { it.first }.unzip()
    return Chances(tokens, values.map { it / all })
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
