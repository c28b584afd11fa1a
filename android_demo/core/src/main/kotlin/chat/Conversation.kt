package dev.gemma4edge.core.chat

import dev.gemma4edge.core.bundle.Dialogue
import dev.gemma4edge.core.bundle.TurnRole
import dev.gemma4edge.core.prompt.Message
import dev.gemma4edge.core.prompt.Part
import dev.gemma4edge.core.prompt.Segment
import dev.gemma4edge.core.prompt.Turn
import dev.gemma4edge.core.prompt.WrittenCall
import dev.gemma4edge.core.prompt.buildPrompt
import dev.gemma4edge.core.prompt.cutAtMedia
import dev.gemma4edge.core.reply.Reply
import kotlinx.serialization.json.JsonPrimitive

/** Several turns, each of them a whole prompt; what of it an [Engine] holds already is the engine's affair. */
class Conversation(private val dialogue: Dialogue, system: String = "") {
    /** Whether the model is asked to think first. */
    var think = false

    private val said = ArrayList<Message>()

    init {
        if (system.isNotBlank()) said += Turn(TurnRole.SYSTEM, system)
    }

    val messages: List<Message> get() = said

    /** Parts in the order in which the dialogue has them. */
    fun userTurn(text: String, media: List<Part.Media> = emptyList()): Turn {
        val order = dialogue.order.map { it.name }
        return Turn(TurnRole.USER, media.sortedBy { order.indexOf(it.kind.name) } + Part.Text(text))
    }

    /**
     * Adds [message]; returns the prompt for an engine.
     *
     * @throws IllegalArgumentException it cannot be said; the conversation stays as it was.
     */
    fun say(message: Message): List<Segment> {
        val built = buildPrompt(dialogue, said + message, think = think)
        return cutAtMedia(dialogue, built.text, built.media).also { said += message }
    }

    /** Adds the model's turn. */
    fun answered(reply: Reply) {
        said += Turn(TurnRole.MODEL, listOf(Part.Text(reply.text)), reply.calls.mapNotNull(::asWritten))
    }

    /** Takes back the last turn of the user's and what followed, and returns it to be said again. */
    fun takeBack(): Turn? {
        val at = said.indexOfLast { it is Turn && it.role == TurnRole.USER }
        if (at < 0) return null
        val turn = said[at] as Turn
        said.subList(at, said.size).clear()
        return turn
    }

    /** Arguments stay text, so that they are what the cache holds. */
    private fun asWritten(call: String): WrittenCall? {
        val body = call.substringAfter("call:", "").ifEmpty { return null }
        return WrittenCall(body.substringBefore('{'), JsonPrimitive(body.substringAfter('{', "").removeSuffix("}")))
    }
}
