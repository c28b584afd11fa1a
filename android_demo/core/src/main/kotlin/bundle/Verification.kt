package dev.gemma4edge.core.bundle

import kotlinx.serialization.Serializable

/** What was measured when the bundle was made. */
@Serializable
data class Verification(
    val ran: List<String>,
    val skipped: Map<String, String>,
    val reference: ReferenceKind = ReferenceKind.NONE,
    val measures: List<Measure>,
    val passed: Boolean
)

/** One figure of a verification, and its gate; without [bound] it is reported only. */
@Serializable
data class Measure(
    val check: String,
    val engine: String?,
    val modality: String?,
    val name: String,
    val value: Double,
    val bound: Double?,
    val atLeast: Boolean = false,
    val passed: Boolean,
    val note: String = "",
    val series: List<List<Double>>? = null
)
