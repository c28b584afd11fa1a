package dev.gemma4edge.app.engine

import dev.gemma4edge.core.bundle.Dialogue
import dev.gemma4edge.core.bundle.Manifest
import dev.gemma4edge.core.chat.Engine
import dev.gemma4edge.core.chat.SessionEngine
import dev.gemma4edge.core.media.ProcessorConfig
import dev.gemma4edge.core.session.Session
import dev.gemma4edge.core.text.Tokenizer
import java.io.File

/** The engines there are, by the format that each one opens. To add one: a row here, and an [Engine] or a [Session]. */
enum class EngineKind(val title: String, val format: String) {
    EXECUTORCH("ExecuTorch", "executorch"),
    ONNX("ONNX Runtime", "onnx")
    ;

    companion object {
        /** Those that a bundle has files for. */
        fun of(manifest: Manifest): List<EngineKind> = entries.filter { it.format in manifest.artifacts }
    }
}

/** A bundle on the device with all that is read of it before its weights are. */
class OpenBundle(
    val folder: File,
    val manifest: Manifest,
    val dialogue: Dialogue,
    val tokenizer: Tokenizer,
    val processor: ProcessorConfig
) {
    /** For chats and benchmarks. */
    fun engine(kind: EngineKind, scratch: File): Engine = when (kind) {
        EngineKind.EXECUTORCH -> LlmModuleEngine(folder, manifest, tokenizer)

        EngineKind.ONNX -> {
            val cell = processor.imageProcessor.cell
            SessionEngine(session(kind, scratch), manifest, dialogue, tokenizer, cell)
        }
    }

    /** For the self-test, which compares logits. */
    fun session(kind: EngineKind, scratch: File): Session = when (kind) {
        EngineKind.EXECUTORCH -> ExecutorchSession(folder, manifest.tokens)
        EngineKind.ONNX -> OnnxSession(folder, manifest.tokens, scratch)
    }
}
