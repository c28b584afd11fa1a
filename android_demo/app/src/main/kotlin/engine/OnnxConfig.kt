package dev.gemma4edge.app.engine

import java.io.File
import kotlinx.serialization.SerialName
import kotlinx.serialization.Serializable
import kotlinx.serialization.json.Json

/** What of `onnx/genai_config.json` a session needs. */
@Serializable
internal data class OnnxConfig(val model: Model, val search: Search) {
    @Serializable
    data class Model(
        val decoder: Graph,
        val embedding: Graph? = null,
        val vision: Graph? = null,
        val speech: Graph? = null
    )

    /** Without a file where the model has no such input: the engine's configuration must name the part all the same. */
    @Serializable
    data class Graph(val filename: String = "", @SerialName("sliding_window") val window: Window? = null)

    @Serializable
    data class Window(@SerialName("window_size") val size: Int = 0, @SerialName("cache_slack") val slack: Int = 0)

    @Serializable
    data class Search(@SerialName("max_length") val context: Int)

    /** Of a sliding layer's cache; 0 where there is none. */
    val windowSlots: Int get() = model.decoder.window?.run { size + slack } ?: 0

    /** Slots of a cache's axis by the axis's name. */
    val slots: Map<String, Int>
        get() = mapOf("slots" to search.context, "window_slots" to minOf(search.context, windowSlots))

    companion object {
        private val json = Json { ignoreUnknownKeys = true }

        fun read(folder: File): OnnxConfig = json.decodeFromString(File(folder, "genai_config.json").readText())
    }
}
