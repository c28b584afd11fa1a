package dev.gemma4edge.core.session

import kotlin.random.Random
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

class StepsTest {
    @Test
    fun `steps are whole, in order, and cut no image`() {
        val random = Random(6)
        repeat(500) {
            val inside = List(random.nextInt(8)) { run ->
                List(random.nextInt(1, 20)) { run % 2 == 1 }
            }.flatten().toBooleanArray()
            val found = steps(inside, longest = 24)
            assertEquals(inside.indices.toList(), found.flatten())
            assertTrue(found.all { it.count() <= 24 })
            assertTrue(found.none { it.first > 0 && inside[it.first] && inside[it.first - 1] })
        }
    }

    @Test
    fun `an image that no step holds is refused`() {
        assertThrows(IllegalArgumentException::class.java) { steps(BooleanArray(25) { true }, longest = 24) }
    }

    @Test
    fun `a clip is cut into pieces that a step holds, and nothing is lost`() {
        val clip = Frames(FloatArray(7 * 2) { it.toFloat() }, width = 2)
        val pieces = clip.cut(longest = 3)
        assertEquals(listOf(3, 3, 1), pieces.map { it.count })
        assertEquals(clip.values.toList(), pieces.flatMap { it.values.toList() })
        assertEquals("what fits stays whole", 1, clip.cut(longest = 7).size)
    }

    @Test
    fun `an image that no encoder holds is refused`() {
        requireSide(side = 32, longest = 32)
        val error = assertThrows(IllegalArgumentException::class.java) { requireSide(side = 33, longest = 32) }
        assertTrue(error.message, "33" in error.message!! && "crop it" in error.message!!)
    }
}
