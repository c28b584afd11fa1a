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

/** What an engine is to take in next: the [rest] of a prompt behind the [sequence] that holds its beginning, or [all]. */
class Feed internal constructor(
    private val sequence: Any?,
    private val rest: List<Segment>,
    private val all: () -> List<Segment>
) {
    /**
     * For [engine], on its thread: a benchmark or a self-test may have reset or replaced it since.
     *
     * @throws IllegalArgumentException the prompt cannot be said.
     */
    fun on(engine: Engine): List<Segment> {
        if (engine.sequence === sequence) return rest
        return all().also { engine.reset() }
    }
}

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
    private var holder: Any? = null // the sequence that holds it
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
        val all = { cutAtMedia(dialogue, built.text, built.media) }
        val rest = known?.let { cutAtMedia(dialogue, built.text.drop(it.length), built.media.drop(heldMedia)) } ?: all()
        val feed = Feed(holder.takeIf { known != null }, rest, all)
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
     * @param sequence of the engine that wrote it.
     */
    fun answered(reply: Reply, written: String, unseen: String, sequence: Any) {
        held = prompt + written.removeSuffix(unseen)
        holder = sequence
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
