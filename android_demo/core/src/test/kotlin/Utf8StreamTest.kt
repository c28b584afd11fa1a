package dev.gemma4edge.core.text

import kotlin.random.Random
import org.junit.Assert.assertEquals
import org.junit.Test

class Utf8StreamTest {
    @Test
    fun `however text is cut, it comes out whole`() {
        val random = Random(1)
        repeat(500) {
            val text = random.text(random.nextInt(40))
            val stream = Utf8Stream()
            val found = random.cut(text.toByteArray()).map(stream::add) + stream.end()
            assertEquals(text, found.joinToString(""))
            assertEquals("no half characters", emptyList<String>(), found.filter { '\uFFFD' in it })
        }
    }

    @Test
    fun `however bytes are cut, the same comes out`() {
        val random = Random(2)
        repeat(500) {
            val bytes = random.nextBytes(random.nextInt(12))
            val stream = Utf8Stream()
            val whole = stream.add(bytes) + stream.end()
            assertEquals(whole, random.cut(bytes).joinToString("", transform = stream::add) + stream.end())
        }
    }
}

private val CHARACTERS = listOf("a", " ", "\n", "é", "€", "語", "😀", "👩‍👩‍👧", "\u0301")

internal fun Random.text(length: Int) = List(length) { CHARACTERS.random(this) }.joinToString("")

/** Parts of random lengths, empty ones among them. */
internal fun Random.cut(bytes: ByteArray): List<ByteArray> {
    val cuts = List(nextInt(bytes.size + 1)) { nextInt(bytes.size + 1) }.sorted()
    return (listOf(0) + cuts).zip(cuts + bytes.size) { from, to -> bytes.copyOfRange(from, to) }
}
