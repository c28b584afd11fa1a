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

/** What an engine is to take in next, from the start of a sequence or behind what it holds. */
class Feed(val fromStart: Boolean, val segments: List<Segment>)

/**
 * Several turns over one sequence: only what a new turn adds is taken in, unless the template drops something from earlier
 * ones, thoughts for example; then all is read again from the start.
 */
class Conversation(private val dialogue: Dialogue, system: String = "") {
    /** Whether the model is asked to think first; a change has all read again. */
    var think = false

    private val said = ArrayList<Message>()
    private var held: String? = null // what the cache holds, as text; null: nothing that can be built on
    private var heldMedia = 0
    private var prompt = ""

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
     * Adds [message]; returns what to give the engine.
     *
     * @throws IllegalArgumentException it cannot be said; the conversation stays as it was.
     */
    fun say(message: Message): Feed {
        val built = buildPrompt(dialogue, said + message, think = think)
        val known = held?.takeIf(built.text::startsWith)
        val media = built.media.drop(if (known == null) 0 else heldMedia)
        val feed = Feed(known == null, cutAtMedia(dialogue, built.text.drop(known?.length ?: 0), media))
        said += message
        prompt = built.text
        heldMedia = built.media.size
        held = null // until the engine is done
        return feed
    }

    /**
     * Adds the model's turn.
     *
     * @param written as it came, marks included; [unseen] is the end of it that is not in the cache.
     */
    fun answered(reply: Reply, written: String, unseen: String) {
        held = prompt + written.removeSuffix(unseen)
        said += Turn(TurnRole.MODEL, listOf(Part.Text(reply.text)), reply.calls.mapNotNull(::asWritten))
    }

    /** Takes back the last turn of the user's and what followed, and returns it to be said again. */
    fun takeBack(): Turn? {
        val at = said.indexOfLast { it is Turn && it.role == TurnRole.USER }
        if (at < 0) return null
        val turn = said[at] as Turn
        said.subList(at, said.size).clear()
        held = null
        return turn
    }

    /** Arguments stay text, so that they are what the cache holds. */
    private fun asWritten(call: String): WrittenCall? {
        val body = call.substringAfter("call:", "").ifEmpty { return null }
        return WrittenCall(body.substringBefore('{'), JsonPrimitive(body.substringAfter('{', "").removeSuffix("}")))
    }
}
