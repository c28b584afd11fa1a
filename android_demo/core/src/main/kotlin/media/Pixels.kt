package dev.gemma4edge.core.media

import dev.gemma4edge.core.session.Patches

/**
 * An image in the size that the model takes.
 *
 * @property values `[3, height, width]`, 0..1.
 */
class Pixels(val size: ImageSize, val values: FloatArray) {
    /** Cut into square cells of so many pixels a side, row by row. */
    fun cut(cell: Int): Patches {
        val columns = size.width / cell
        val count = columns * (size.height / cell)
        val width = 3 * cell * cell
        val cut = FloatArray(count * width)
        for (at in cut.indices) {
            val place = at / width
            val row = place / columns * cell + at % width / (3 * cell)
            val column = place % columns * cell + at % (3 * cell) / 3
            cut[at] = values[(at % 3 * size.height + row) * size.width + column]
        }
        return Patches(cut, IntArray(2 * count) { if (it % 2 == 0) it / 2 % columns else it / 2 / columns })
    }

    companion object {
        fun of(picture: Picture): Pixels {
            val area = picture.argb.size
            val values = FloatArray(3 * area) { (picture.argb[it % area] shr (16 - 8 * (it / area)) and 0xFF) / 255f }
            return Pixels(picture.size, values)
        }

        /** The image that [patches] were cut from; cells that are not there stay black. */
        fun join(patches: Patches): Pixels {
            val cell = kotlin.math.sqrt(patches.width / 3.0).toInt()
            val places = (0 until patches.count).map { patches.cells[2 * it] to patches.cells[2 * it + 1] }
            val size = ImageSize((places.maxOf { it.first } + 1) * cell, (places.maxOf { it.second } + 1) * cell)
            val values = FloatArray(3 * size.width * size.height)
            patches.values.forEachIndexed { at, value ->
                val (column, row) = places[at / patches.width]
                val y = row * cell + at % patches.width / (3 * cell)
                val x = column * cell + at % (3 * cell) / 3
                values[(at % 3 * size.height + y) * size.width + x] = value
            }
            return Pixels(size, values)
        }
    }
}
