package dev.gemma4edge.core.media

import dev.gemma4edge.core.Vectors
import dev.gemma4edge.core.at
import dev.gemma4edge.core.int
import dev.gemma4edge.core.ints
import dev.gemma4edge.core.objects
import dev.gemma4edge.core.text
import java.util.Base64
import kotlinx.serialization.json.jsonArray
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** Sizes and cells of all; patches of those that are not scaled, as scaling is Android's. */
class ImagesTest {
    private val cases = Vectors.read("images").objects("cases")

    @Test
    fun `images are cut into the same cells`() {
        for (case in cases) {
            val cell = ImageProcessor(patchSize = 16, poolingKernelSize = 3, maxSoftTokens = case.int("budget"))
            val size = targetSize(ImageSize(case.int("width"), case.int("height")), cell)
            val found = Pixels(size, FloatArray(3 * size.width * size.height)).cut(cell.cell)
            assertEquals(case.text("name"), case.at("cells").jsonArray.flatMap { it.ints() }, found.cells.toList())
        }
    }

    @Test
    fun `patches have the same bytes`() {
        val case = cases.first { it.text("name") == "as it is" }
        val size = ImageSize(case.int("width"), case.int("height"))
        val rgb = bytes(case.text("pixels"))
        val argb = rgb.toList().chunked(3) { (red, green, blue) -> (red shl 16) or (green shl 8) or blue }
        val found = Pixels.of(size, argb.toIntArray()).cut(cell = 48).values.map { Math.round(it * 255) }
        val wanted = bytes(case.text("patches"))
        assertTrue("the case is scaled now", wanted.size == rgb.size)
        assertArrayEquals(wanted, found.toIntArray())
    }

    private fun bytes(text: String) = Base64.getDecoder().decode(text).map { it.toInt() and 0xFF }.toIntArray()
}
