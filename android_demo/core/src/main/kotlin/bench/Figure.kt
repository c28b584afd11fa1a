package dev.gemma4edge.core.bench

import java.math.BigDecimal
import java.math.MathContext
import java.math.RoundingMode
import kotlin.math.ceil
import kotlin.math.floor
import kotlinx.serialization.Serializable

/**
 * One thing measured again and again.
 *
 * @property spread (90th percentile - 10th percentile) / median
 */
@Serializable
data class Figure(val median: Double, val spread: Double, val values: List<Double>) {
    companion object {
        /** Of values in the order of the rounds, warm-up left out. */
        fun of(values: List<Double>): Figure {
            val (low, middle, high) = listOf(10.0, 50.0, 90.0).map { percentile(values, it) }
            val spread = if (middle == 0.0) 0.0 else (high - low) / middle
            return Figure(short(middle), short(spread), values.map(::short))
        }
    }
}

/** Between the two nearest values where it falls between two, as NumPy's. */
fun percentile(values: List<Double>, percent: Double): Double {
    require(values.isNotEmpty()) { "no values" }
    val sorted = values.sorted()
    val at = percent / 100 * (sorted.size - 1)
    val low = sorted[floor(at).toInt()]
    return low + (sorted[ceil(at).toInt()] - low) * (at - floor(at))
}

/** With more digits than are true, and fewer than a line is readable with. */
private fun short(value: Double) = BigDecimal(value).round(MathContext(6, RoundingMode.HALF_EVEN)).toDouble()
