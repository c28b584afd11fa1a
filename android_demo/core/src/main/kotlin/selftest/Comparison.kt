package dev.gemma4edge.core.selftest

import kotlin.math.abs
import kotlin.math.exp
import kotlin.math.ln
import kotlin.math.sqrt

/** Logits: where the reference's two largest are closer than this, an engine may choose the other. */
const val NEAR_TIE = 0.25

/** Greedy tokens beside the reference's; positions count from the first generated token. */
data class GreedyMatch(val compared: Int, val nearTies: List<Int>, val errors: List<Int>) {
    val equal get() = errors.isEmpty()
}

/** Choices after the same tokens, so that each position stands for itself. */
fun compareForced(reference: List<Int>, found: List<Int>, gaps: List<Double>, nearTie: Double = NEAR_TIE): GreedyMatch {
    require(reference.size == found.size) { "${found.size} tokens beside ${reference.size}" }
    val (excused, errors) = reference.indices.filter { reference[it] != found[it] }.partition { gaps[it] < nearTie }
    return GreedyMatch(reference.size, excused, errors)
}

/**
 * Texts that each wrote by itself: where they part they become different texts, so nothing later counts. Ending early is
 * a difference too.
 */
fun compareGenerated(
    reference: List<Int>,
    found: List<Int>,
    gaps: List<Double>,
    nearTie: Double = NEAR_TIE
): GreedyMatch {
    val first = reference.indices.firstOrNull { found.getOrNull(it) != reference[it] }
    val length = first?.plus(1) ?: reference.size
    return compareForced(reference.take(length), List(length) { found.getOrElse(it) { NO_TOKEN } }, gaps, nearTie)
}

private const val NO_TOKEN = -1

/** Nats: D(P || Q) of the softmax of both, P the reference. */
fun klDivergence(reference: FloatArray, found: FloatArray): Double {
    val p = logSoftmax(reference)
    val q = logSoftmax(found)
    return p.indices.sumOf { exp(p[it]) * (p[it] - q[it]) }.coerceAtLeast(0.0) // rounding can leave -1e-17
}

/** sqrt(mean((x - r)^2) / mean(r^2)), over all rows at once. */
fun relativeRms(reference: List<FloatArray>, found: List<FloatArray>): Double {
    val error = differences(reference, found).sumOf { it * it }
    val energy = reference.sumOf { row -> row.sumOf { it.toDouble() * it } }
    return sqrt(error / energy)
}

/** max |x - r|, in logits. */
fun largestDifference(reference: List<FloatArray>, found: List<FloatArray>): Double =
    differences(reference, found).maxOf { abs(it) }

private fun differences(reference: List<FloatArray>, found: List<FloatArray>) =
    reference.zip(found).flatMap { (wanted, got) -> wanted.indices.map { got[it].toDouble() - wanted[it] } }

private fun logSoftmax(logits: FloatArray): DoubleArray {
    val top = logits.max().toDouble()
    val sum = ln(logits.sumOf { exp(it - top) })
    return DoubleArray(logits.size) { logits[it] - top - sum }
}
