package dev.gemma4edge.app.engine

import dev.gemma4edge.core.bundle.Manifest
import dev.gemma4edge.core.chat.Engine
import dev.gemma4edge.core.chat.SessionEngine
import dev.gemma4edge.core.media.ProcessorConfig
import dev.gemma4edge.core.session.Session
import dev.gemma4edge.core.text.Tokenizer
import java.io.File

/**
 * The engines there are, by the format that each one opens. To add one: a row here, and an [Engine] or a [Session].
 *
 * ONNX Runtime is first, and so what a bundle with both is loaded in unless somebody wants otherwise: [LlmModuleEngine]
 * neither suppresses tokens, of which the 12B's likeliest often is one, nor samples with top-k and top-p.
 */
enum class EngineKind(val title: String, val format: String) {
    ONNX("ONNX Runtime", "onnx"),
    EXECUTORCH("ExecuTorch", "executorch")
    ;

    companion object {
        /** Those that a bundle has files for, the best first. */
        fun of(manifest: Manifest): List<EngineKind> = entries.filter { it.format in manifest.artifacts }
    }
}

/**
 * A bundle on the device with all that is read of it before its weights are.
 *
 * @property processor null where the model takes text alone.
 */
class OpenBundle(val folder: File, val manifest: Manifest, val tokenizer: Tokenizer, val processor: ProcessorConfig?) {
    private val cell get() = processor?.imageProcessor?.cell

    /** For chats and benchmarks. */
    fun engine(kind: EngineKind, scratch: File): Engine = when (kind) {
        EngineKind.ONNX -> SessionEngine(session(kind, scratch), manifest, tokenizer, cell)
        EngineKind.EXECUTORCH -> LlmModuleEngine(folder, manifest, tokenizer, cell)
    }

    /** For the self-test, which compares logits. */
    fun session(kind: EngineKind, scratch: File): Session = when (kind) {
        EngineKind.ONNX -> OnnxSession(folder, manifest.tokens, scratch)
        EngineKind.EXECUTORCH -> ExecutorchSession(folder, manifest.tokens)
    }

    /** For what is no text. */
    fun requireProcessor() = requireNotNull(processor) { "this model takes text alone" }
}
