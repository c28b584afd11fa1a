package dev.gemma4edge.core.bundle

import kotlinx.serialization.Serializable

/** How to call Core ML packages: no affair of Android's, but a bundle may hold them. */
@Serializable
data class Host(
    val identity: String,
    val minimumIos: String,
    val computeUnits: String,
    val context: Int,
    val prefill: Int,
    val hidden: Int,
    val vocabulary: Int,
    val chunks: List<String>,
    val heads: List<String>,
    val embedding: Table,
    val embeddingScale: Double,
    val attention: Map<String, Attention>,
    val masked: Double
) {
    init {
        require(computeUnits == "cpuAndGPU") { "compute_units: $computeUnits is not cpuAndGPU" }
        listOf("context" to context, "prefill" to prefill, "hidden" to hidden, "vocabulary" to vocabulary)
            .forEach { (name, value) -> requirePositive(name, value.toLong()) }
    }
}

/** Rows that a host looks up itself. */
@Serializable
data class Table(
    val rows: Long,
    val columns: Long,
    val bits: Int,
    val codes: String,
    val scales: String?,
    val group: Long
) {
    init {
        requirePositive("rows", rows)
        requirePositive("columns", columns)
        requirePositive("group", group)
        requireOneOf("bits", bits, 4, 8, 32)
    }
}

/** Layers of one kind, as their host sees them. */
@Serializable
data class Attention(
    val state: String,
    val slots: Int,
    val headDim: Int,
    val window: Int?,
    val imageBlocks: Boolean,
    val inverseFrequencies: List<Double>,
    val mask: String,
    val cos: String,
    val sin: String,
    val slot: String,
    val write: String?,
    val keep: String?
) {
    init {
        requirePositive("slots", slots.toLong())
        requirePositive("head_dim", headDim.toLong())
        window?.let { requirePositive("window", it.toLong()) }
    }
}
