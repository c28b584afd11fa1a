package dev.gemma4edge.core.bundle

import kotlinx.serialization.SerialName
import kotlinx.serialization.Serializable
import kotlinx.serialization.json.JsonPrimitive

/**
 * `manifest.json` of a bundle: the schema of `runtime/manifest.py`, key by key.
 *
 * A key that is not here does not parse, and neither does a manifest without one that is: a change of the schema that
 * this file does not follow fails its tests.
 */
@Serializable
data class Manifest(
    val formatVersion: Int,
    val target: String,
    val source: Source,
    val recipe: Recipe,
    val artifacts: Map<String, Artifact>,
    val files: List<BundleFile>,
    val tokens: Tokens,
    val sampling: Sampling,
    val limits: Limits,
    val dialogue: Dialogue? = null,
    val undescribed: Map<String, String> = emptyMap(),
    val tensors: List<TensorDigest>,
    val goldens: List<GoldenEntry>,
    val tools: Map<String, String>,
    val verification: Verification? = null
)

/** The checkpoint that everything was made from. */
@Serializable
data class Source(
    val name: String,
    val revision: String?,
    val sha256: String,
    val modelType: String,
    val licence: String
)

/** How the weights were quantized. */
@Serializable
data class Recipe(val name: String, val description: String, val bitsPerWeight: Double, val kvBits: Int) {
    init {
        requireOneOf("kv_bits", kvBits, 8, 32)
    }
}

/** One file of the bundle; [size] in bytes. */
@Serializable
data class BundleFile(val path: String, val size: Long, val sha256: String) {
    init {
        requireCount("size", size)
    }
}

/** What the bundle holds for one format: its programs by role. */
@Serializable
data class Artifact(
    val programs: Map<String, Program>,
    val cache: CacheMemory,
    val kvScales: Map<Int, List<Double>>? = null,
    val host: Host? = null,
    val loadOptions: Map<String, Map<String, JsonPrimitive>>? = null
) {
    init {
        kvScales?.values?.forEach { require(it.size == 2) { "kv_scales: two values a layer, not ${it.size}" } }
        loadOptions?.values?.flatMap { it.values }?.forEach {
            require(it.isString || it.content == "true" || it.content == "false") {
                "load_options: text or a boolean, not $it"
            }
        }
    }
}

/** One graph of an artifact. */
@Serializable
data class Program(
    val file: String,
    val inputs: List<Port>,
    val outputs: List<Port>,
    val function: String? = null,
    val states: List<Port> = emptyList()
)

/** An input or output; an axis is a number, or the name of one that is dynamic. */
@Serializable
data class Port(val name: String, val dtype: String, val shape: List<JsonPrimitive>)

/** Bytes of keys and values: full layers grow with the positions, rings of sliding layers do not. */
@Serializable
data class CacheMemory(val fixed: Long, val perPosition: Long) {
    init {
        requireCount("fixed", fixed)
        requireCount("per_position", perPosition)
    }

    /** Bytes with so many positions in it. */
    fun at(positions: Int): Long = fixed + perPosition * positions
}

/** Ids with a meaning of their own; null where the model has no such input. */
@Serializable
data class Tokens(
    val bos: Int,
    val eos: List<Int>,
    val pad: Int,
    val suppress: List<Int>,
    val image: Int?,
    val audio: Int?,
    val video: Int?,
    val beginImage: Int?,
    val endImage: Int?,
    val beginAudio: Int?,
    val endAudio: Int?
)

/** The checkpoint's own generation defaults. */
@Serializable
data class Sampling(val doSample: Boolean, val temperature: Double, val topK: Int, val topP: Double) {
    init {
        require(temperature >= 0 && temperature.isFinite()) { "temperature: $temperature is no finite number from 0" }
        requireCount("top_k", topK.toLong())
        require(topP >= 0 && topP.isFinite()) { "top_p: $topP is no finite number from 0" }
    }
}

/** How much goes in: positions, and [minimumMemory] in bytes. */
@Serializable
data class Limits(
    val context: Int,
    val slidingWindow: Int,
    val imageSoftTokens: Int?,
    val audioSoftTokens: Int?,
    val minimumMemory: Long
) {
    init {
        requirePositive("context", context.toLong())
        requirePositive("sliding_window", slidingWindow.toLong())
        imageSoftTokens?.let { requireCount("image_soft_tokens", it.toLong()) }
        audioSoftTokens?.let { requireCount("audio_soft_tokens", it.toLong()) }
        requireCount("minimum_memory", minimumMemory)
    }
}

/** A weight as it left the quantizer. */
@Serializable
data class TensorDigest(
    val name: String,
    val shape: List<Long>,
    val dtype: String,
    val group: Long? = null,
    val sha256: String,
    val scalesSha256: String? = null
) {
    init {
        require(shape.size <= 8) { "shape: ${shape.size} axes are more than 8" }
        shape.forEach { requireCount("shape", it) }
        group?.let { requirePositive("group", it) }
    }
}

/** A prompt with what the quantized reference makes of it, in two files. */
@Serializable
data class GoldenEntry(
    val name: String,
    val modality: Modality,
    val file: String,
    val tensors: String,
    val reference: ReferenceKind = ReferenceKind.WHOLE
)

/** What a golden is about; `long` is text past the sliding window. */
@Serializable
enum class Modality {
    @SerialName("text")
    TEXT,

    @SerialName("image")
    IMAGE,

    @SerialName("audio")
    AUDIO,

    @SerialName("long")
    LONG
}

/** transformers' model in memory, or loaded a layer at a time, or none. */
@Serializable
enum class ReferenceKind {
    @SerialName("none")
    NONE,

    @SerialName("whole")
    WHOLE,

    @SerialName("streamed")
    STREAMED
}
