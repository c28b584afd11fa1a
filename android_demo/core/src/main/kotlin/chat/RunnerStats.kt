package dev.gemma4edge.core.chat

import kotlinx.serialization.SerialName
import kotlinx.serialization.Serializable
import kotlinx.serialization.json.Json

/** What ExecuTorch's runner tells about itself at the end of a turn (`extension/llm/runner/stats.h`), as far as we read it. */
@Serializable
data class RunnerStats(
    @SerialName("prompt_tokens") val promptTokens: Int,
    @SerialName("generated_tokens") val generatedTokens: Int
) {
    /** Written in this turn: the first token comes out of the prompt and is not counted. */
    val tokens get() = generatedTokens + 1

    /** Of the sequence at the end: the runner's prompt is all that was before. */
    val position get() = promptTokens + generatedTokens

    companion object {
        private val json = Json { ignoreUnknownKeys = true }

        fun parse(text: String): RunnerStats = json.decodeFromString(text)
    }
}
