package dev.gemma4edge.app.engine

import dev.gemma4edge.core.bundle.Tokens
import dev.gemma4edge.core.chat.EngineException
import dev.gemma4edge.core.media.Pixels
import dev.gemma4edge.core.session.Frames
import dev.gemma4edge.core.session.ModelInputs
import dev.gemma4edge.core.session.Patches
import dev.gemma4edge.core.session.Session
import dev.gemma4edge.core.session.requireSide
import dev.gemma4edge.core.session.steps
import java.io.File
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/**
 * The methods of a `.pte`, called as its multimodal runner calls them, for logits that the runner does not hand out.
 *
 * Embeddings have one channel more than the model, which tells images from all else. It loads the program anew: close
 * other engines of the bundle first.
 */
class ExecutorchSession(bundle: File, private val tokens: Tokens) : Session {
    override val name = "ExecuTorch"
    override var position = 0
        private set

    private val module = openProgram(bundle)
    private val limits = ProgramLimits.of(module)

    /** Slots that this sequence has not written yet are hidden by their positions, whatever they hold. */
    override fun reset() {
        position = 0
    }

    override fun prefill(inputs: ModelInputs): FloatArray = asking {
        val count = inputs.ids.size
        if (position + count > limits.context) {
            throw EngineException("${position + count} positions do not fit the context of ${limits.context}: say less")
        }
        val rows = embed(inputs)
        val width = rows.size / count
        var logits = FloatArray(0)
        val inside = BooleanArray(count) { rows[(it + 1) * width - 1] > 0 }
        for (step in steps(inside, limits.step)) {
            logits = decode(rows.copyOfRange(step.first * width, (step.last + 1) * width), step.count())
        }
        logits
    }

    override fun close() = module.close()

    private fun decode(rows: FloatArray, count: Int): FloatArray {
        val shape = longArrayOf(1, count.toLong(), (rows.size / count).toLong())
        val positions = LongArray(count) { (position + it).toLong() }
        val found =
            run("text_decoder", Tensor.fromBlob(rows, shape), Tensor.fromBlob(positions, longArrayOf(count.toLong())))
        position += count
        return found
    }

    /** `[positions, width]`: tokens, and soft tokens where their placeholders stand. */
    private fun embed(inputs: ModelInputs): FloatArray {
        val placeholders = setOfNotNull(tokens.image, tokens.audio)
        val ids = inputs.ids.map { if (it in placeholders) tokens.pad else it }.map(Int::toLong)
        val rows = ids.chunked(limits.step).map { embedTokens(it.toLongArray()) }.reduce(FloatArray::plus)
        val width = rows.size / ids.size
        place(rows, width, inputs.ids, tokens.image, inputs.images.map { embedImage(it, width) })
        place(rows, width, inputs.ids, tokens.audio, inputs.clips.map(::embedClip))
        return rows
    }

    private fun place(rows: FloatArray, width: Int, ids: IntArray, placeholder: Int?, soft: List<FloatArray>) {
        val found = soft.fold(FloatArray(0), FloatArray::plus)
        ids.indices.filter { ids[it] == placeholder }.forEachIndexed { at, to ->
            found.copyInto(rows, to * width, at * width, (at + 1) * width)
        }
    }

    private fun embedTokens(ids: LongArray) =
        run("token_embedding", Tensor.fromBlob(ids, longArrayOf(1, ids.size.toLong())))

    /** The encoder answers for the whole grid; an image has some of its cells. */
    private fun embedImage(patches: Patches, width: Int): FloatArray {
        requireSide(patches.cells.max() + 1, limits.imageSide)
        val image = Pixels.join(patches)
        val shape = longArrayOf(1, 3, image.size.height.toLong(), image.size.width.toLong())
        val grid = run("vision_encoder", Tensor.fromBlob(image.values, shape))
        val columns = (0 until patches.count).maxOf { patches.cells[2 * it] } + 1
        return FloatArray(patches.count * width) {
            val cell = it / width
            grid[(patches.cells[2 * cell + 1] * columns + patches.cells[2 * cell]) * width + it % width]
        }
    }

    private fun embedClip(frames: Frames): FloatArray {
        val shape = longArrayOf(1, frames.count.toLong(), frames.width.toLong())
        return run("audio_encoder", Tensor.fromBlob(frames.values, shape))
    }

    private fun run(method: String, vararg inputs: Tensor): FloatArray {
        val values = inputs.map { EValue.from(it) }.toTypedArray()
        return module.execute(method, *values)[0].toTensor().dataAsFloatArray
    }
}
