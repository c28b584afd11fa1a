package dev.gemma4edge.core.chat

import dev.gemma4edge.core.media.ImageSize
import dev.gemma4edge.core.media.Pixels
import dev.gemma4edge.core.prompt.Part
import dev.gemma4edge.core.prompt.Segment
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Test

/** What is left to read by text alone. */
class HeldTest {
    private val image = Segment.Image(Part.Image(Pixels(ImageSize(0, 0), FloatArray(0))))
    private val other = Segment.Image(Part.Image(Pixels(ImageSize(0, 0), FloatArray(0))))
    private val held = Held(prompt("b", image), "c")

    @Test
    fun `what comes behind is left, later media too`() {
        val more = listOf(other, Segment.Text("e"))
        assertEquals(listOf(Segment.Text("d")) + more, held.behind(prompt("bcd", image) + more))
        assertEquals(listOf(Segment.Text("bd")) + more, held.behindMedia(prompt("bd", image) + more))
    }

    @Test
    fun `nothing is behind what begins otherwise`() {
        assertNull("other text", held.behind(prompt("bd", image)))
        assertNull("nothing new", held.behind(prompt("bc", image)))
        assertNull("another image", held.behind(prompt("bcd", other)))
        assertNull("no image", held.behind(listOf(Segment.Text("abcd"))))
        assertNull("another image", held.behindMedia(prompt("bcd", other)))
    }

    private fun prompt(text: String, image: Segment.Image) = listOf(Segment.Text("a"), image, Segment.Text(text))
}
