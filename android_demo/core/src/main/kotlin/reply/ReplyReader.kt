package dev.gemma4edge.core.reply

/** The marks that open and close thoughts and calls, as tokens spell them. */
object Marks {
    const val CHANNEL = "<|channel>"
    const val CHANNEL_END = "<channel|>"
    const val CALL = "<|tool_call>"
    const val CALL_END = "<tool_call|>"
    const val QUOTE = "<|\"|>"

    internal val opening = mapOf(CHANNEL to Kind.THOUGHT, CALL to Kind.CALL)
    internal val all = listOf(CHANNEL, CHANNEL_END, CALL, CALL_END)
}

/**
 * Streamed text in, pieces out; a mark may come in parts, so what may become one is held back.
 *
 * @param silent names of special tokens, of which those that do not mark channels, calls or quotes say nothing.
 */
class ReplyReader(silent: Set<String> = emptySet()) {
    private val marks = Marks.all + (silent - Marks.all - Marks.QUOTE)
    private var kind = Kind.TEXT
    private var waiting = ""

    /** The pieces that [text] completes. */
    fun add(text: String): List<Piece> {
        val pieces = ArrayList<Piece>()
        var rest = waiting + text
        while (true) {
            val (at, mark) = rest.findAnyOf(marks) ?: break
            if (at > 0) pieces += Piece(kind, rest.substring(0, at))
            if (mark in Marks.all) {
                kind = Marks.opening[mark] ?: Kind.TEXT
                pieces += Piece(kind, "")
            }
            rest = rest.substring(at + mark.length)
        }
        val held = beginningOfMark(rest)
        if (held > 0) pieces += Piece(kind, rest.substring(0, held))
        waiting = rest.substring(held)
        return pieces
    }

    /** What was held back, once the turn has ended. */
    fun end(): List<Piece> = listOf(Piece(kind, waiting)).filter { it.text.isNotEmpty() }.also { waiting = "" }

    private fun beginningOfMark(text: String): Int {
        val longest = marks.maxOf { it.length } - 1
        val starts = (text.length - longest).coerceAtLeast(0)..text.length
        return starts.first { start -> marks.any { it.startsWith(text.substring(start)) } }
    }
}
