package dev.gemma4edge.core.chat

import dev.gemma4edge.core.bundle.Manifest
import dev.gemma4edge.core.bundle.Sampling
import dev.gemma4edge.core.prompt.Segment
import dev.gemma4edge.core.prompt.modelInputs
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

    override var sequence = Any()
        private set

    override fun reset() {
        sequence = Any() // first: a reset that fails must not pass for the old sequence
        session.reset()
    }

    override fun generate(
        segments: List<Segment>,
        sampling: Sampling,
        limit: Int,
        onText: (String) -> Unit
    ): Generation {
        stopped = false
        val begun = TimeSource.Monotonic.markNow()
        val inputs = modelInputs(manifest.dialogue, tokenizer, cell, segments)
        requireRoom(inputs.ids.size)
        val choose = Sampler(sampling, manifest.tokens.suppress)
        val speller = Speller(tokenizer)
        var logits = session.prefill(inputs)
        var tokens = 0
        var first = 0.0
        while (true) {
            val token = choose(logits)
            onText(speller.add(token))
            tokens++
            if (tokens == 1) first = begun.seconds()
            val end = whyEnd(token, tokens, limit)
            if (end != null) {
                val decoding = begun.seconds() - first
                return Generation(session.position, tokens, tokenizer.spell(token), first, decoding, end)
            }
            logits = session.decode(token)
        }
    }

    override fun stop() {
        stopped = true
    }

    override fun close() = session.close()

    private fun whyEnd(token: Int, written: Int, limit: Int): End? = when {
        token in manifest.tokens.eos -> End.MODEL
        written == limit -> End.LIMIT
        session.position + 1 >= manifest.limits.context -> End.CONTEXT
        stopped -> End.USER
        else -> null
    }

    private fun requireRoom(count: Int) {
        val positions = session.position + count
        if (positions >= manifest.limits.context) {
            throw EngineException(
                "$positions positions leave no room for an answer in the context of ${manifest.limits.context}: " +
                    "say less, or begin a new chat"
            )
        }
    }

    private fun TimeSource.Monotonic.ValueTimeMark.seconds() = elapsedNow().inWholeNanoseconds / 1e9
}
