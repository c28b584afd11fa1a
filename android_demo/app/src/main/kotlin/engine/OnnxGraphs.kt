package dev.gemma4edge.app.engine

import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtSession
import dev.gemma4edge.core.bundle.requireInside
import dev.gemma4edge.core.chat.EngineException
import java.io.Closeable
import java.io.File

/** The graphs of a bundle, each opened when it is first asked for. */
internal class OnnxGraphs(
    private val environment: OrtEnvironment,
    private val folder: File,
    private val model: OnnxConfig.Model
) : Closeable {
    private val opened = ArrayList<OrtSession>()

    val decoder by lazy { open(model.decoder) }

    /** Null where the decoder looks ids up itself, as that of a model of text does. */
    val embedding by lazy { model.embedding?.let(::open) }
    val vision by lazy { open(required(model.vision, "images")) }
    val speech by lazy { open(required(model.speech, "sound")) }

    override fun close() {
        opened.forEach(OrtSession::close)
        opened.clear()
    }

    private fun open(graph: OnnxConfig.Graph): OrtSession {
        val file = requireInside(folder, graph.filename)
        return environment.createSession(file.path, OrtSession.SessionOptions()).also { opened += it }
    }

    private fun required(graph: OnnxConfig.Graph?, what: String): OnnxConfig.Graph =
        graph?.takeIf { it.filename.isNotEmpty() } ?: throw EngineException("this model takes no $what")
}

/** ONNX Runtime's errors as ours. */
internal fun <T> askingOnnx(block: () -> T): T = try {
    block()
} catch (error: OrtException) {
    throw EngineException("ONNX Runtime: ${error.message?.lineSequence()?.first()}", error)
}
