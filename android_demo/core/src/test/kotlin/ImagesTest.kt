package dev.gemma4edge.core.media

import dev.gemma4edge.core.Vectors
import dev.gemma4edge.core.at
import dev.gemma4edge.core.int
import dev.gemma4edge.core.ints
import dev.gemma4edge.core.objects
import dev.gemma4edge.core.text
import java.util.Base64
import kotlin.math.abs
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.jsonArray
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** Pictures, scaled and cut as the checkpoint's processor does it. */
class ImagesTest {
    private val cases = Vectors.read("images").objects("cases")

    @Test
    fun `images are cut into the same cells`() {
        for (case in cases) {
            val found = patches(case)
            assertEquals(case.text("name"), case.at("cells").jsonArray.flatMap { it.ints() }, found.cells.toList())
        }
    }

    /** torchvision rounds the weights of its filter, so that a byte may differ by one. */
    @Test
    fun `patches have the same bytes`() {
        for (case in cases) {
            val name = case.text("name")
            val wanted = bytes(case.text("patches"))
            val found = patches(case).values.map { Math.round(it * 255) }
            assertEquals(name, wanted.size, found.size)
            val differences = found.zip(wanted) { one, other -> abs(one - other) }
            assertTrue("$name: ${differences.max()}", differences.max() <= 1)
            val differing = differences.count { it > 0 }
            assertTrue("$name: $differing of ${wanted.size} bytes differ", differing * 50 < wanted.size)
            if (name == "as it is") assertEquals("what is not scaled stays", 0, differing)
        }
    }

    private fun patches(case: JsonObject) = processor(case).let { processor ->
        val size = ImageSize(case.int("width"), case.int("height"))
        val rgb = bytes(case.text("pixels")).chunked(3)
        val argb = rgb.map { (red, green, blue) -> (red shl 16) or (green shl 8) or blue }.toIntArray()
        Pixels.of(Picture(size, argb).resized(targetSize(size, processor))).cut(processor.cell)
    }

    private fun processor(case: JsonObject) =
        ImageProcessor(patchSize = 16, poolingKernelSize = 3, maxSoftTokens = case.int("budget"))

    private fun bytes(text: String) = Base64.getDecoder().decode(text).map { it.toInt() and 0xFF }
}
