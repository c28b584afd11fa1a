package dev.gemma4edge.core.prompt

import dev.gemma4edge.core.bundle.Dialogue
import dev.gemma4edge.core.bundle.TurnMarks
import dev.gemma4edge.core.bundle.TurnRole

/** A prompt with one placeholder for each of its [media], in order. */
class Prompt(val text: String, val media: List<Part.Media>)

/**
 * The prompt of [messages] up to where the model's turn begins, as `runtime/dialogue.py` builds it and as the
 * checkpoint's own chat template renders it.
 *
 * @throws IllegalArgumentException tools, calls or media that the dialogue does not describe.
 */
fun buildPrompt(
    dialogue: Dialogue,
    messages: List<Message>,
    tools: List<Tool> = emptyList(),
    think: Boolean = false
): Prompt {
    val media = messages.filterIsInstance<Turn>().flatMap { it.parts }.filterIsInstance<Part.Media>()
    return Prompt(Builder(dialogue).build(messages, tools, think), media)
}

private enum class Last { TURN, CALL, RESPONSE }

private class Builder(private val dialogue: Dialogue) {
    private val tools by lazy {
        ToolText(requireNotNull(dialogue.tools) { "this model's template describes no tools" })
    }
    private val text = StringBuilder(dialogue.begin)
    private var last = Last.TURN

    fun build(messages: List<Message>, declared: List<Tool>, think: Boolean): String {
        val system = messages.firstOrNull().takeIf { it is Turn && it.role == TurnRole.SYSTEM } as Turn?
        if (system != null || declared.isNotEmpty() || think) addSystem(system, declared, think)
        messages.drop(if (system == null) 0 else 1).forEach(::add)
        if (last == Last.TURN) text.append(if (think) dialogue.generationThinking else dialogue.generation)
        return text.toString()
    }

    private fun addSystem(message: Turn?, declared: List<Tool>, think: Boolean) {
        val marks = marks(TurnRole.SYSTEM)
        text.append(marks.begin)
        if (think) text.append(dialogue.thinking)
        message?.let { addParts(it) }
        declared.forEach { text.append(tools.declaration(it)) }
        text.append(marks.end)
    }

    private fun add(message: Message) {
        when (message) {
            is ToolResponse -> {
                text.append(tools.response(message, opened = last == Last.CALL))
                last = Last.RESPONSE
            }

            is Turn -> addTurn(message)
        }
    }

    /** The model goes on behind a response. */
    private fun addTurn(turn: Turn) {
        val marks = marks(turn.role)
        if (turn.role != TurnRole.MODEL || last != Last.RESPONSE) text.append(marks.begin)
        addParts(turn)
        turn.calls.forEach { text.append(tools.call(it)) }
        text.append(if (turn.calls.isEmpty()) marks.end else tools.opened)
        last = if (turn.calls.isEmpty()) Last.TURN else Last.CALL
    }

    private fun addParts(turn: Turn) {
        for (part in turn.parts) {
            when (part) {
                is Part.Text -> text.append(plain(part.text, turn.role))
                is Part.Media -> text.append(dialogue.marksOf(part).placeholder)
            }
        }
    }

    private fun plain(said: String, role: TurnRole): String {
        val thought = dialogue.thought
        if (role == TurnRole.MODEL && thought != null) return withoutThoughts(said, thought)
        return if (dialogue.trimmed) said.strip() else said
    }

    private fun marks(role: TurnRole): TurnMarks =
        requireNotNull(dialogue.turns[role]) { "this model's template has no turns of $role" }
}

internal fun Dialogue.marksOf(part: Part.Media) =
    requireNotNull(media[part.kind]) { "this model takes no ${part.kind.name.lowercase()}" }

/** What is left of a turn of the model's; a thought without an end hides all that follows. */
internal fun withoutThoughts(text: String, marks: TurnMarks): String =
    text.split(marks.end).joinToString("") { it.substringBefore(marks.begin) }.strip()

/** As Python's: U+0085 is white space there, and in Kotlin it is not. */
private fun String.strip() = trim { it.isWhitespace() || it == '\u0085' }
