package dev.gemma4edge.core.reply

/** What some of the model's text is. */
enum class Kind { TEXT, THOUGHT, CALL }

/** Some text of one kind; an empty one begins a kind, which tells two calls in a row apart. */
data class Piece(val kind: Kind, val text: String)

/** A turn of the model's, as far as it has come. */
data class Reply(val pieces: List<Piece> = emptyList()) {
    val text get() = of(Kind.TEXT)
    val thoughts get() = of(Kind.THOUGHT)

    /** Each as the model wrote it, `call:NAME{...}`. */
    val calls: List<String>
        get() =
            pieces.filter { it.kind == Kind.CALL }.fold(emptyList()) { found, piece ->
                if (piece.text.isEmpty()) found + "" else found.dropLast(1) + (found.last() + piece.text)
            }

    operator fun plus(more: List<Piece>) = Reply(pieces + more)

    private fun of(kind: Kind) = pieces.filter { it.kind == kind }.joinToString("") { it.text }
}
