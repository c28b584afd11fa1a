package dev.gemma4edge.core.bench

import dev.gemma4edge.core.bundle.strictJson
import kotlinx.serialization.Serializable

/** All of one run: the record of `runtime/bench/result.py`, which `python -m runtime report --bench` reads. */
@Serializable
data class Bench(
    val bundle: String,
    val target: String,
    val recipe: String,
    val context: Int,
    val device: String,
    val work: Work,
    val machine: Machine,
    val engines: List<EngineSpeed>,
    val ratios: List<Ratio>,
    val skipped: Map<String, String>,
    val notes: List<String>,
    val energy: String?
) {
    /** The line to share. */
    fun toJson(): String = strictJson.encodeToString(serializer(), this)
}

/** What was asked for: [lengths] prefilled, [tokens] decoded behind those of [contexts]. */
@Serializable
data class Work(
    val lengths: List<Int>,
    val contexts: List<Int>,
    val tokens: Int,
    val repeats: Int,
    val warmup: Int,
    val loads: Int,
    val threads: Int?
)

/** That all was measured on; [memory] in bytes. */
@Serializable
data class Machine(
    val name: String,
    val system: String,
    val cores: Int,
    val threads: Int,
    val memory: Long,
    val load: Double?,
    val packages: Map<String, String>
)

/** What one engine made of the work; [load] in seconds. */
@Serializable
data class EngineSpeed(
    val engine: String,
    val load: Figure,
    val firstToken: Figure?,
    val threads: Int?,
    val text: List<TextSpeed>,
    val media: List<MediaSpeed>,
    val memory: MemoryUse,
    val notes: List<String>
)

/** A prompt of [length] positions: seconds to the first token, tokens per second. */
@Serializable
data class TextSpeed(val length: Int, val firstToken: Figure, val prefill: Figure, val decode: Figure?)

/** An image or a clip. */
@Serializable
data class MediaSpeed(
    val modality: String,
    val positions: Int,
    val prompt: Int,
    val encode: Figure?,
    val prefill: Figure
)

/** Of the process. */
@Serializable
data class MemoryUse(val imported: Resident?, val loaded: Resident?, val steady: Resident, val peak: Resident)

/** Bytes that a file backs, and that none does. */
@Serializable
data class Resident(val anonymous: Long?, val file: Long?, val total: Long?)

/** How often as fast as a peer; an app has none to compare with. */
@Serializable
data class Ratio(val engine: String, val peer: String, val length: Int, val prefill: Double, val decode: Double?)
