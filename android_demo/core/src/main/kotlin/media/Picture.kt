package dev.gemma4edge.core.media

import kotlin.math.abs

/** Pixels `0xAARRGGBB`, row by row, as Android's Bitmap hands them out. */
class Picture(val size: ImageSize, val argb: IntArray) {
    /**
     * Bicubic with antialiasing, as the checkpoint's processor has torchvision do it: a filter as wide as the scale,
     * one axis after the other, rounded after each. Of scaled pixels alpha is forgotten.
     */
    fun resized(to: ImageSize): Picture {
        val wide = Axis(size.width, size.height, step = 1, line = size.width).resample(argb, to.width, 1, to.width)
        val high = Axis(size.height, to.width, step = to.width, line = 1).resample(wide, to.height, to.width, 1)
        return Picture(to, high)
    }
}

/** One axis of [length] pixels, [step] apart, in [lines] that are [line] apart. */
private class Axis(val length: Int, val lines: Int, val step: Int, val line: Int) {
    /** To [target] pixels, written [toStep] and [toLine] apart. */
    fun resample(pixels: IntArray, target: Int, toStep: Int, toLine: Int): IntArray {
        if (target == length) return pixels
        val result = IntArray(target * lines)
        for (at in 0 until target) {
            val taps = Taps.of(at, target, length)
            for (row in 0 until lines) {
                result[row * toLine + at * toStep] = weigh(pixels, row * line + taps.start * step, taps.weights)
            }
        }
        return result
    }

    /** Three sums in one pass: a picture has millions of pixels. */
    private fun weigh(pixels: IntArray, start: Int, weights: FloatArray): Int {
        var red = 0f
        var green = 0f
        var blue = 0f
        for (tap in weights.indices) {
            val pixel = pixels[start + tap * step]
            red += weights[tap] * (pixel shr 16 and 0xFF)
            green += weights[tap] * (pixel shr 8 and 0xFF)
            blue += weights[tap] * (pixel and 0xFF)
        }
        return (0xFF shl 24) or (byte(red) shl 16) or (byte(green) shl 8) or byte(blue)
    }

    private fun byte(value: Float) = (value + 0.5f).toInt().coerceIn(0, 255)
}

/** The first source pixel that counts, and the weights from there on, which add up to 1. */
private class Taps(val start: Int, val weights: FloatArray) {
    companion object {
        /** Of target pixel [at] of [target], over [length] source pixels. */
        fun of(at: Int, target: Int, length: Int): Taps {
            val scale = length.toDouble() / target
            val stretch = maxOf(scale, 1.0)
            val centre = (at + 0.5) * scale
            val start = (centre - 2 * stretch + 0.5).toInt().coerceAtLeast(0)
            val stop = (centre + 2 * stretch + 0.5).toInt().coerceAtMost(length)
            val weights = (start until stop).map { cubic((it - centre + 0.5) / stretch) }
            val total = weights.sum()
            return Taps(start, FloatArray(weights.size) { (weights[it] / total).toFloat() })
        }
    }
}

/** Keys 1981, equation 4, with a = -0.5. */
private fun cubic(distance: Double): Double {
    val x = abs(distance)
    return when {
        x < 1 -> (1.5 * x - 2.5) * x * x + 1
        x < 2 -> ((-0.5 * x + 2.5) * x - 4) * x + 2
        else -> 0.0
    }
}
