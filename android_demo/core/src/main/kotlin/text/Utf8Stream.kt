package dev.gemma4edge.core.text

private const val REPLACEMENT = 0xFFFD

/**
 * Bytes in, text out: a character whose bytes come one after another is held back until it is whole.
 *
 * What is no UTF-8 becomes U+FFFD, one for each maximal subpart, as the Unicode standard (3.9, table 3-7) recommends.
 * The JDK's decoder takes the three bytes of a surrogate for one.
 */
class Utf8Stream {
    private val text = StringBuilder()
    private var code = 0
    private var missing = 0 // bytes of the character that has begun
    private var allowed = 0x80..0xBF // values of the next one

    /** Whether something was replaced since the last [end]. */
    var isBroken = false
        private set

    /** The characters that are whole now. */
    fun add(bytes: ByteArray): String {
        bytes.forEach { take(it.toInt() and 0xFF) }
        return text.toString().also { text.clear() }
    }

    /** What is left at the end, a cut character as U+FFFD; the stream can begin anew. */
    fun end(): String {
        if (missing > 0) replace()
        isBroken = false
        return text.toString().also { text.clear() }
    }

    private fun take(byte: Int) {
        if (missing == 0) return begin(byte)
        if (byte !in allowed) {
            replace()
            return begin(byte)
        }
        code = (code shl 6) or (byte and 0x3F)
        allowed = 0x80..0xBF
        if (--missing == 0) text.appendCodePoint(code)
    }

    private fun begin(byte: Int) {
        allowed = when (byte) {
            0xE0 -> 0xA0..0xBF

            0xED -> 0x80..0x9F

            // no surrogates

            0xF0 -> 0x90..0xBF

            0xF4 -> 0x80..0x8F

            else -> 0x80..0xBF
        }
        when (byte) {
            in 0x00..0x7F -> text.append(byte.toChar())
            in 0xC2..0xDF -> expect(1, byte and 0x1F)
            in 0xE0..0xEF -> expect(2, byte and 0x0F)
            in 0xF0..0xF4 -> expect(3, byte and 0x07)
            else -> replace()
        }
    }

    private fun expect(more: Int, bits: Int) {
        missing = more
        code = bits
    }

    private fun replace() {
        missing = 0
        isBroken = true
        text.appendCodePoint(REPLACEMENT)
    }
}
