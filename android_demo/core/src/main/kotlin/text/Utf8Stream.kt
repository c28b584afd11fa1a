package dev.gemma4edge.core.text

import java.nio.ByteBuffer
import java.nio.CharBuffer
import java.nio.charset.CodingErrorAction

/**
 * Bytes in, text out: a character whose bytes come one after another is held back until it is whole.
 *
 * Bytes that are no UTF-8 become U+FFFD, as the Unicode standard recommends (one for each maximal subpart).
 */
class Utf8Stream {
    private val decoder =
        Charsets.UTF_8
            .newDecoder()
            .onMalformedInput(CodingErrorAction.REPLACE)
            .onUnmappableCharacter(CodingErrorAction.REPLACE)
    private var waiting = ByteArray(0)

    /** The characters that are whole now. */
    fun add(bytes: ByteArray): String = decode(bytes, false)

    /** What is left at the end, a cut character as U+FFFD; the stream can begin anew. */
    fun end(): String = decode(ByteArray(0), true).also { decoder.reset() }

    private fun decode(bytes: ByteArray, last: Boolean): String {
        val input = ByteBuffer.wrap(waiting + bytes)
        val output = CharBuffer.allocate(input.remaining() + 1)
        decoder.decode(input, output, last)
        if (last) decoder.flush(output)
        waiting = ByteArray(input.remaining()).also(input::get)
        return output.flip().toString()
    }
}
