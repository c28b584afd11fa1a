package dev.gemma4edge.core.chat

import dev.gemma4edge.core.bundle.Sampling
import dev.gemma4edge.core.prompt.Segment
import java.io.Closeable

/**
 * A model that writes text: one sequence, which goes on from call to call.
 *
 * Calls block and come from one thread, except [stop]. Errors are [EngineException]s.
 */
interface Engine : Closeable {
    val name: String

    /** Whether tokens that the checkpoint suppresses never come. */
    val suppresses: Boolean

    /** Begins a new sequence. */
    fun reset()

    /**
     * Reads what the sequence lacks of [prompt], and writes until the turn ends, [limit] tokens are written, or [stop].
     *
     * @param prompt whole, from the start: text, and media between texts.
     * @param onText is given the text as it comes, marks of channels, calls and turns included.
     */
    fun generate(prompt: List<Segment>, sampling: Sampling, limit: Int, onText: (String) -> Unit): Generation

    /** Ends [generate] after the token that it is at. */
    fun stop()
}

/** What an engine refuses, and what to do about it, in one line. */
class EngineException(message: String, cause: Throwable? = null) : Exception(message, cause)

/** Why a turn ended. */
enum class End { MODEL, LIMIT, CONTEXT, USER }

/**
 * What a turn took.
 *
 * @property position of the sequence at its end.
 * @property firstToken seconds to the first token, [decoding] seconds of those behind it.
 */
data class Generation(val position: Int, val tokens: Int, val firstToken: Double, val decoding: Double, val end: End) {
    /** Tokens per second behind the first. */
    val rate get() = if (decoding > 0) (tokens - 1) / decoding else 0.0
}
