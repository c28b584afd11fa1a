package dev.gemma4edge.core.bench

import dev.gemma4edge.core.bundle.Sampling
import dev.gemma4edge.core.chat.Engine
import dev.gemma4edge.core.chat.Generation
import dev.gemma4edge.core.prompt.Segment
import dev.gemma4edge.core.text.Tokenizer

private const val TEXT = "It was late in the evening when the old man came down to the sea and looked for his boat. "
private val GREEDY = Sampling(doSample = false, temperature = 0.0, topK = 0, topP = 1.0)

/** Prompts of so many tokens each, by their lengths. */
fun benchPrompts(tokenizer: Tokenizer, lengths: List<Int>): Map<Int, String> {
    val sentence = tokenizer.encode(TEXT)
    return lengths.associateWith { length ->
        String(
            (0 until length).fold(ByteArray(0)) { bytes, at ->
                bytes + tokenizer.bytes(sentence[at % sentence.size])
            }
        )
    }
}

/**
 * Every prompt from the start of a sequence, round after round; the first [Work.warmup] rounds are left out.
 *
 * @param told is given the round, from 1, and the length.
 * @param keepGoing asked before each prompt; false gives up and returns null.
 */
fun measure(
    engine: Engine,
    prompts: Map<Int, String>,
    work: Work,
    told: (Int, Int) -> Unit = { _, _ -> },
    keepGoing: () -> Boolean = { true }
): List<TextSpeed>? {
    val runs = prompts.mapValues { ArrayList<Generation>() }
    for (round in 0 until work.warmup + work.repeats) {
        for ((length, prompt) in prompts) {
            if (!keepGoing()) return null
            told(round + 1, length)
            engine.reset()
            val limit = if (length in work.contexts) work.tokens + 1 else 1
            val run = engine.generate(listOf(Segment.Text(prompt)), GREEDY, limit) {}
            if (round >= work.warmup) runs.getValue(length) += run
        }
    }
    return runs.values.map(::textSpeed)
}

/** What runs of one prompt come to; a prompt has the positions that the sequence has before its second token. */
fun textSpeed(runs: List<Generation>): TextSpeed {
    val length = runs.first().run { position - (tokens - 1) }
    val rates = runs.filter { it.tokens > 1 && it.decoding > 0 }.map { it.rate }
    return TextSpeed(
        length,
        Figure.of(runs.map { it.firstToken }),
        Figure.of(runs.map { length / it.firstToken }),
        rates.takeIf { it.isNotEmpty() }?.let(Figure::of)
    )
}
