package dev.gemma4edge.core.text

/**
 * [text] cut into parts of at most [longest] tokens each, between words where it can be, so that the parts' tokens are
 * those of the whole.
 */
fun Tokenizer.cut(text: String, longest: Int): List<String> {
    val ids = encode(text)
    if (ids.size <= longest) return listOf(text)
    val parts = ArrayList<String>()
    var start = 0
    while (start < ids.size) {
        val stop = if (ids.size - start <= longest) ids.size else wordStart(ids, start, start + longest)
        parts += String(ids.sliceArray(start until stop).fold(ByteArray(0)) { bytes, id -> bytes + bytes(id) })
        start = stop
    }
    return parts
}

/** The last word's start in `start + 1..stop`, or of a character where there is no word. */
private fun Tokenizer.wordStart(ids: IntArray, start: Int, stop: Int): Int =
    (stop downTo start + 1).firstOrNull { isSpecial(ids[it]) || piece(ids[it]).startsWith('▁') }
        ?: (stop downTo start + 1).firstOrNull { !isContinuation(bytes(ids[it]).first()) }
        ?: stop

private fun isContinuation(byte: Byte) = byte.toInt() and 0xC0 == 0x80
