package dev.gemma4edge.app.engine

import dev.gemma4edge.core.bundle.Manifest
import dev.gemma4edge.core.bundle.Sampling
import dev.gemma4edge.core.chat.End
import dev.gemma4edge.core.chat.Engine
import dev.gemma4edge.core.chat.EngineException
import dev.gemma4edge.core.chat.Generation
import dev.gemma4edge.core.chat.Held
import dev.gemma4edge.core.chat.RunnerStats
import dev.gemma4edge.core.media.ImageSize
import dev.gemma4edge.core.prompt.Part
import dev.gemma4edge.core.prompt.Segment
import dev.gemma4edge.core.session.requireSide
import dev.gemma4edge.core.text.Tokenizer
import dev.gemma4edge.core.text.cut
import java.io.File
import org.pytorch.executorch.ExecutorchRuntimeException
import org.pytorch.executorch.extension.llm.LlmCallback
import org.pytorch.executorch.extension.llm.LlmGenerationConfig
import org.pytorch.executorch.extension.llm.LlmModule
import org.pytorch.executorch.extension.llm.LlmModuleConfig

/** The runner refuses higher temperatures. */
private const val HOTTEST = 1f

/**
 * ExecuTorch's stock multimodal runner. It takes a temperature but neither top-k nor top-p, suppresses no tokens, and
 * opens one sequence, which goes on from call to call. It calls the decoder once for each part of a prompt, so text and
 * sound are handed over in parts of a step.
 *
 * Weights are mapped, not read, and never locked.
 *
 * @param cell pixels along the side of an image's soft token, where the model takes images.
 */
class LlmModuleEngine(
    bundle: File,
    private val manifest: Manifest,
    private val tokenizer: Tokenizer,
    private val cell: Int?
) : Engine {
    override val name = "LlmModule"
    override val suppresses = false

    @Volatile
    private var stopped = false

    private val limits = ProgramLimits.of(bundle)
    private val module = asking {
        LlmModule(
            LlmModuleConfig
                .create()
                .modulePath(programFile(bundle).path)
                .tokenizerPath(File(bundle, "tokenizer.json").path)
                .modelType(LlmModuleConfig.MODEL_TYPE_MULTIMODAL)
                .loadMode(LlmModuleConfig.LOAD_MODE_MMAP)
                .numBos(0) // prompts spell theirs
                .numEos(0)
                .build()
        ).also { it.load() }
    }

    private var held: Held? = null // null: nothing that can be built on

    override fun reset() {
        held = null // first: a reset that fails must not pass for the old sequence
        asking { module.resetContext() }
    }

    override fun generate(prompt: List<Segment>, sampling: Sampling, limit: Int, onText: (String) -> Unit): Generation =
        asking {
            stopped = false
            val rest = held?.behind(prompt) ?: prompt.also { reset() }
            val writing = Writing(onText, enough = { stopped || it >= limit }, stop = module::stop)
            val parts = rest.flatMap(::parts)
            held = null // until the runner is done
            parts.dropLast(1).forEach(::takeIn)
            val last = parts.last() as Segment.Text // prompts end with the mark of the model's turn
            module.generate(last.text, settings(sampling), writing)
            writing.generation().also { held = Held(prompt, writing.seen.toString()) }
        }

    override fun stop() {
        stopped = true
        module.stop()
    }

    override fun close() = module.close()

    private fun settings(sampling: Sampling) = LlmGenerationConfig
        .create()
        .echo(false)
        .seqLen(manifest.limits.context)
        .temperature(if (sampling.doSample) sampling.temperature.toFloat().coerceAtMost(HOTTEST) else 0f)
        .build()

    private fun parts(segment: Segment): List<Segment> = when (segment) {
        is Segment.Text -> tokenizer.cut(segment.text, limits.step).map { Segment.Text(it) }
        is Segment.Clip -> segment.clip.frames.cut(limits.step).map { Segment.Clip(Part.Clip(it)) }
        is Segment.Image -> listOf(segment.also { requireFits(it.image.pixels.size) })
    }

    private fun requireFits(image: ImageSize) {
        val side = maxOf(image.width, image.height)
        requireSide(side / requireNotNull(cell) { "this model takes no images" }, limits.imageSide)
    }

    private fun takeIn(segment: Segment) = when (segment) {
        is Segment.Text -> module.prefillPrompt(segment.text)

        is Segment.Image -> segment.image.pixels.let {
            module.prefillImages(it.values, it.size.width, it.size.height, 3)
        }

        // The runner calls the axes of raw frames bins and frames of a spectrogram.
        is Segment.Clip -> segment.clip.frames.let { module.prefillAudio(it.values, 1, it.count, it.width) }
    }

    /** What the runner tells while it writes. */
    private inner class Writing(
        private val onText: (String) -> Unit,
        private val enough: (Int) -> Boolean,
        private val stop: () -> Unit
    ) : LlmCallback {
        val seen = StringBuilder() // what is in the cache: the runner does not take in its last token

        private val begun = System.nanoTime()
        private var first = 0.0
        private var written = 0 // texts, which are tokens but where a character needs several
        private var unseen = ""
        private var stats: RunnerStats? = null
        private var fault: String? = null

        override fun onResult(result: String) {
            if (written == 0) first = seconds()
            written++
            seen.append(unseen)
            unseen = result
            onText(result)
            if (enough(written)) stop()
        }

        override fun onStats(stats: String) {
            this.stats = RunnerStats.parse(stats)
        }

        override fun onError(errorCode: Int, message: String) {
            fault = "$message ($errorCode)"
        }

        fun generation(): Generation {
            fault?.let { throw EngineException("ExecuTorch stopped: $it. Is the prompt longer than the context?") }
            val position = stats?.position ?: 0
            return Generation(position, stats?.tokens ?: written, first, seconds() - first, end(position))
        }

        private fun end(position: Int) = when {
            stopped -> End.USER
            position >= manifest.limits.context - 1 -> End.CONTEXT
            enough(written) -> End.LIMIT
            else -> End.MODEL
        }

        private fun seconds() = (System.nanoTime() - begun) / 1e9
    }
}

/** ExecuTorch's errors as ours. */
internal fun <T> asking(block: () -> T): T = try {
    block()
} catch (error: ExecutorchRuntimeException) {
    throw EngineException("ExecuTorch: ${error.message?.lineSequence()?.first()}", error)
}
