package dev.gemma4edge.core.chat

import dev.gemma4edge.core.bundle.Manifest
import dev.gemma4edge.core.bundle.Sampling
import dev.gemma4edge.core.prompt.Segment
import dev.gemma4edge.core.prompt.modelInputs
import dev.gemma4edge.core.session.ModelInputs
import dev.gemma4edge.core.session.Sampler
import dev.gemma4edge.core.session.Session
import dev.gemma4edge.core.text.Speller
import dev.gemma4edge.core.text.Tokenizer
import kotlin.time.TimeSource

/**
 * An [Engine] over an engine that hands out logits: tokens are made, chosen and spelled here.
 *
 * @param cell pixels along the side of an image's soft token, where the model takes images.
 */
class SessionEngine(
    private val session: Session,
    private val manifest: Manifest,
    private val tokenizer: Tokenizer,
    private val cell: Int?
) : Engine {
    override val name get() = session.name
    override val suppresses get() = true

    @Volatile
    private var stopped = false

    private var held: Held? = null // null: nothing that can be built on
    private var tail = emptyList<Int>() // ids in the cache behind its last medium

    override fun reset() {
        held = null // first: a reset that fails must not pass for the old sequence
        session.reset()
    }

    override fun generate(prompt: List<Segment>, sampling: Sampling, limit: Int, onText: (String) -> Unit): Generation {
        stopped = false
        val begun = TimeSource.Monotonic.markNow()
        val choose = Sampler(sampling, manifest.tokens.suppress)
        val speller = Speller(tokenizer)
        val written = StringBuilder()
        val tokens = ArrayList<Int>()
        var logits = takeIn(prompt)
        var first = 0.0
        while (true) {
            val token = choose(logits)
            tokens += token
            onText(speller.add(token).also(written::append))
            if (tokens.size == 1) first = begun.seconds()
            val end = whyEnd(token, tokens.size, limit)
            if (end != null) {
                val decoding = begun.seconds() - first
                remember(prompt, written.toString(), tokens)
                return Generation(session.position, tokens.size, first, decoding, end)
            }
            logits = session.decode(token)
        }
    }

    override fun stop() {
        stopped = true
    }

    override fun close() = session.close()

    /** The logits behind [prompt]. */
    private fun takeIn(prompt: List<Segment>): FloatArray {
        val lack = lack(prompt)
        requireRoom(lack.position + lack.inputs.ids.size)
        held = null // until the engine is done
        val rest = if (moveTo(lack.position)) lack else Lack(0, emptyList(), inputs(prompt))
        val hasMedia = rest.inputs.images.isNotEmpty() || rest.inputs.clips.isNotEmpty()
        tail = if (hasMedia) inputs(prompt.takeLast(1)).ids.asList() else rest.kept + rest.inputs.ids.asList()
        return session.prefill(rest.inputs)
    }

    /**
     * Compared as text, for the model may have written it in other tokens than the tokenizer does; then, as the template
     * may write earlier turns in another way than they were read, token by token. The last is read always, for its logits.
     */
    private fun lack(prompt: List<Segment>): Lack {
        held?.behind(prompt)?.let { return Lack(session.position, tail, inputs(it)) }
        val rest = held?.behindMedia(prompt) ?: return Lack(0, emptyList(), inputs(prompt))
        val all = inputs(rest)
        val kept = tail.zip(all.ids.dropLast(1)).takeWhile { (old, new) -> old == new }.map { it.first }
        val ids = all.ids.copyOfRange(kept.size, all.ids.size)
        return Lack(session.position - tail.size + kept.size, kept, ModelInputs(ids, all.images, all.clips))
    }

    private fun inputs(segments: List<Segment>) = modelInputs(manifest.dialogue, tokenizer, cell, segments)

    /** Whether the sequence ends at [position] now; if not, it is a new one. */
    private fun moveTo(position: Int): Boolean {
        if (position == session.position || (position > 0 && session.rewind(position))) return true
        session.reset()
        return position == 0
    }

    /** The last token was chosen, but no engine takes it in. */
    private fun remember(prompt: List<Segment>, written: String, tokens: List<Int>) {
        held = Held(prompt, written.removeSuffix(tokenizer.spell(tokens.last())))
        tail = tail + tokens.dropLast(1)
    }

    private fun whyEnd(token: Int, written: Int, limit: Int): End? = when {
        token in manifest.tokens.eos -> End.MODEL
        written == limit -> End.LIMIT
        session.position + 1 >= manifest.limits.context -> End.CONTEXT
        stopped -> End.USER
        else -> null
    }

    private fun requireRoom(positions: Int) {
        if (positions >= manifest.limits.context) {
            throw EngineException(
                "$positions positions leave no room for an answer in the context of ${manifest.limits.context}: " +
                    "say less, or begin a new chat"
            )
        }
    }

    private fun TimeSource.Monotonic.ValueTimeMark.seconds() = elapsedNow().inWholeNanoseconds / 1e9

    /** What a session lacks of a prompt: [inputs] at [position]; it has [kept] between the last medium and there. */
    private class Lack(val position: Int, val kept: List<Int>, val inputs: ModelInputs)
}
