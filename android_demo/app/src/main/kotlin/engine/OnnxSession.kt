package dev.gemma4edge.app.engine

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import dev.gemma4edge.core.bundle.Tokens
import dev.gemma4edge.core.chat.EngineException
import dev.gemma4edge.core.session.Frames
import dev.gemma4edge.core.session.ModelInputs
import dev.gemma4edge.core.session.Patches
import dev.gemma4edge.core.session.Session
import dev.gemma4edge.core.session.steps
import java.io.File
import java.nio.ByteBuffer
import java.nio.FloatBuffer
import java.nio.LongBuffer

/** Positions of a prefill that run at once. */
private const val LONGEST = 512

/**
 * Plain ONNX Runtime on the graphs of a bundle's `onnx/`, as `runtime/sessions/onnx.py` runs them. It is no affair of
 * Android's: any JVM with ONNX Runtime runs it.
 *
 * @param scratch folder for the caches' file.
 */
class OnnxSession(bundle: File, private val tokens: Tokens, private val scratch: File) : Session {
    override val name = "ONNX Runtime"
    override var position = 0
        private set

    private val folder = File(bundle, "onnx")
    private val config = OnnxConfig.read(folder)
    private val environment = OrtEnvironment.getEnvironment()
    private val graphs = OnnxGraphs(environment, folder, config.model)
    private var caches = openAll()

    /** What every prompt needs, or nothing: whoever gets no session cannot close it. */
    private fun openAll(): OnnxCaches = try {
        askingOnnx { emptyCaches().also { graphs.embedding } }
    } catch (error: Throwable) {
        graphs.close()
        throw error
    }

    private fun emptyCaches() = OnnxCaches(environment, graphs.decoder, config, scratch)

    override fun reset() = askingOnnx {
        caches.close()
        caches = emptyCaches()
        position = 0
    }

    /** The engine moves rows of a sliding layer's cache once it is full; until then each has a place of its own. */
    override fun rewind(position: Int): Boolean {
        if (config.windowSlots in 1 until this.position) return false
        this.position = position
        return true
    }

    override fun prefill(inputs: ModelInputs): FloatArray = askingOnnx {
        val count = inputs.ids.size
        if (position + count > config.search.context) {
            throw EngineException(
                "${position + count} positions do not fit the context of ${config.search.context}: say less"
            )
        }
        val ids = LongArray(count) { inputs.ids[it].toLong() }
        val rows = embed(ids, inputs.images.map(::features), inputs.clips.map(::features))
        val width = rows.size / count
        var logits = FloatArray(0)
        for (step in steps(BooleanArray(count) { inputs.ids[it] == tokens.image }, LONGEST)) {
            logits = decode(ids.sliceArray(step), rows.copyOfRange(step.first * width, (step.last + 1) * width))
        }
        logits
    }

    override fun close() = askingOnnx {
        caches.close()
        graphs.close()
    }

    /** `[positions, width]`, or of nothing where the decoder takes ids alone. */
    private fun embed(ids: LongArray, images: List<FloatArray>, clips: List<FloatArray>): FloatArray {
        val embedding = graphs.embedding ?: return FloatArray(0)
        val given = mapOf("image_features" to images, "audio_features" to clips)
        val feeds = embedding.inputInfo.mapValues { (name, node) ->
            if (name == "input_ids") {
                longs(ids, 1, ids.size.toLong())
            } else {
                soft(given.getValue(name), node.info as TensorInfo)
            }
        }
        return run(embedding, feeds, "inputs_embeds")
    }

    /** Soft tokens `[n, width]`, or none of them. */
    private fun soft(features: List<FloatArray>, info: TensorInfo): OnnxTensor {
        val width = info.shape.last()
        val values = features.fold(FloatArray(0), FloatArray::plus)
        return floats(values, values.size / width, width)
    }

    private fun decode(ids: LongArray, rows: FloatArray): FloatArray {
        val count = ids.size.toLong()
        val end = position + ids.size
        val step = mapOf(
            "input_ids" to { longs(ids, 1, count) },
            "inputs_embeds" to { floats(rows, 1, count, rows.size / count) },
            "attention_mask" to { longs(LongArray(end) { 1 }, 1, end.toLong()) },
            "position_ids" to { longs(LongArray(ids.size) { (position + it).toLong() }, 1, count) }
        )
        val feeds = step.filterKeys { it in graphs.decoder.inputNames }.mapValues { (_, make) -> make() }
        val logits = run(graphs.decoder, feeds, "logits", caches)
        position = end
        return logits.copyOfRange(logits.size - vocabulary, logits.size)
    }

    private val vocabulary by lazy {
        (graphs.decoder.outputInfo.getValue("logits").info as TensorInfo).shape.last().toInt()
    }

    private fun features(image: Patches): FloatArray {
        val count = image.count.toLong()
        val cells = LongArray(image.cells.size) { image.cells[it].toLong() }
        val feeds = mapOf(
            "pixel_values" to floats(image.values, 1, count, image.width.toLong()),
            "pixel_position_ids" to longs(cells, 1, count, 2)
        )
        return run(graphs.vision, feeds, "image_features")
    }

    private fun features(clip: Frames): FloatArray {
        val count = clip.count.toLong()
        val there = ByteBuffer.allocateDirect(clip.count).apply { repeat(clip.count) { put(1) } }.rewind() as ByteBuffer
        val feeds = mapOf(
            "input_features" to floats(clip.values, 1, count, clip.width.toLong()),
            "input_features_mask" to
                OnnxTensor.createTensor(environment, there, longArrayOf(1, count), OnnxJavaType.BOOL)
        )
        return run(graphs.speech, feeds, "audio_features")
    }

    private fun run(
        session: OrtSession,
        feeds: Map<String, OnnxTensor>,
        output: String,
        caches: OnnxCaches? = null
    ): FloatArray = try {
        val inputs = feeds + caches?.inputs.orEmpty()
        session.run(inputs, setOf(output), caches?.outputs.orEmpty()).use { result ->
            val values = (result[output].get() as OnnxTensor).floatBuffer
            FloatArray(values.remaining()).also(values::get)
        }
    } finally {
        feeds.values.forEach(OnnxTensor::close)
    }

    private fun longs(values: LongArray, vararg shape: Long) =
        OnnxTensor.createTensor(environment, LongBuffer.wrap(values), shape)

    private fun floats(values: FloatArray, vararg shape: Long) =
        OnnxTensor.createTensor(environment, FloatBuffer.wrap(values), shape)
}
