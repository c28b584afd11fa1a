package dev.gemma4edge.core.text

/**
 * Tokens to text as they come, marks by their names.
 *
 * Bytes that are no character become U+FFFD each, all of a run of byte tokens, as the checkpoint's own tokenizer decodes
 * them; those that a mark or the end cuts short say nothing.
 */
class Speller(private val tokenizer: Tokenizer) {
    private val stream = Utf8Stream()
    private var held = 0 // bytes that are not told yet

    fun add(token: Int): String = when {
        tokenizer.isSpecial(token) -> tokenizer.piece(token).also { forget() }
        tokenizer.isByte(token) -> addByte(token)
        else -> "\uFFFD".repeat(held) + tokenizer.spell(token).also { forget() }
    }

    private fun addByte(token: Int): String {
        held++
        val text = stream.add(tokenizer.bytes(token))
        if (text.isEmpty() || stream.isBroken) return ""
        held = 0
        return text
    }

    private fun forget() {
        stream.end()
        held = 0
    }
}
