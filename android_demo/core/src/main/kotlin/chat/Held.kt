package dev.gemma4edge.core.chat

import dev.gemma4edge.core.prompt.Segment

/** What an engine's sequence holds: a prompt, and what was [written] behind it. Media are compared by identity. */
class Held(prompt: List<Segment>, written: String) {
    private val before = prompt.dropLast(1) // the last medium, and all in front of it
    private val text = prompt.last().text + written

    /** What of [prompt] comes behind the last medium held, where it is the same up to there; else null. */
    fun behindMedia(prompt: List<Segment>): List<Segment>? =
        if (prompt.size > before.size && prompt.take(before.size) == before) prompt.drop(before.size) else null

    /** What of [prompt] comes behind all that is held; null where it begins otherwise, or where nothing comes. */
    fun behind(prompt: List<Segment>): List<Segment>? {
        val rest = behindMedia(prompt) ?: return null
        val next = rest.first().text
        if (!next.startsWith(text) || next == text) return null
        return listOf(Segment.Text(next.drop(text.length))) + rest.drop(1)
    }

    /** Media stand between texts, see `cutAtMedia`. */
    private val Segment.text get() = (this as Segment.Text).text
}
