package dev.gemma4edge.core.media

import kotlin.math.sqrt

/** Pixels. */
data class ImageSize(val width: Int, val height: Int)

/**
 * The size that the checkpoint's processor gives an image: the largest of about its proportions that is whole cells and
 * within the budget of soft tokens (`get_aspect_ratio_preserving_size` of transformers' Gemma 4).
 *
 * @throws IllegalArgumentException the proportions are so extreme that no cell is left.
 */
fun targetSize(image: ImageSize, processor: ImageProcessor): ImageSize {
    val cell = processor.cell
    val budget = processor.maxSoftTokens.toDouble() * cell * cell
    val factor = sqrt(budget / (image.width.toDouble() * image.height))
    val columns = (factor * image.width / cell).toInt()
    val rows = (factor * image.height / cell).toInt()
    require(columns > 0 || rows > 0) { "the image is too small to be cut into cells" }
    return when {
        rows == 0 -> ImageSize(minOf(image.width / image.height, processor.maxSoftTokens) * cell, cell)
        columns == 0 -> ImageSize(cell, minOf(image.height / image.width, processor.maxSoftTokens) * cell)
        else -> ImageSize(columns * cell, rows * cell)
    }
}
