package dev.gemma4edge.core.session

import java.io.Closeable

/** One sequence of a model in an engine that hands out logits. Calls block, and come from one thread at a time. */
interface Session : Closeable {
    val name: String

    /** Positions so far. */
    val position: Int

    /** Begins a new sequence. */
    fun reset()

    /** Forgets all from [position] on, if what earlier positions need is still there; says whether it did. */
    fun rewind(position: Int): Boolean = false

    /** Takes in [inputs] behind what is there; returns the logits `[vocabulary]` of the next token. */
    fun prefill(inputs: ModelInputs): FloatArray

    /** The same for one token. */
    fun decode(token: Int): FloatArray = prefill(ModelInputs(intArrayOf(token)))
}

/** What a model takes in: token ids with placeholders, and the media that stand there, in order. */
class ModelInputs(val ids: IntArray, val images: List<Patches> = emptyList(), val clips: List<Frames> = emptyList())

/**
 * An image, cut up.
 *
 * @property values `[cells, 3 * side * side]`, of each cell its pixels row by row with their colours side by side, 0..1.
 * @property cells `[cells, 2]`, column and row.
 */
class Patches(val values: FloatArray, val cells: IntArray) {
    val count get() = cells.size / 2
    val width get() = values.size / count // floats of a cell
}

/**
 * Sound, cut up.
 *
 * @property values `[count, width]` samples in -1..1.
 */
class Frames(val values: FloatArray, val width: Int) {
    val count get() = values.size / width

    /** The same as clips of at most [longest] frames, which are embedded one by one and attend to earlier ones only. */
    fun cut(longest: Int): List<Frames> = (0 until count step longest).map {
        Frames(values.copyOfRange(it * width, minOf(it + longest, count) * width), width)
    }
}
