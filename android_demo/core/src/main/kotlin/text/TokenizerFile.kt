package dev.gemma4edge.core.text

import java.io.File
import kotlinx.serialization.ExperimentalSerializationApi
import kotlinx.serialization.SerialName
import kotlinx.serialization.Serializable
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.decodeFromStream

/** The parts of Hugging Face's `tokenizer.json` that a Gemma tokenizer consists of. */
@Serializable
internal data class TokenizerFile(
    @SerialName("added_tokens") val addedTokens: List<AddedToken>,
    val normalizer: JsonElement,
    val model: BpeModel
)

@Serializable
internal data class AddedToken(val id: Int, val content: String, val special: Boolean)

@Serializable
internal data class BpeModel(
    val type: String,
    @SerialName("byte_fallback") val byteFallback: Boolean,
    @SerialName("ignore_merges") val ignoreMerges: Boolean = false,
    @SerialName("unk_token") val unknown: String?,
    val vocab: Map<String, Int>,
    val merges: List<List<String>>
)

private val json = Json { ignoreUnknownKeys = true }

@OptIn(ExperimentalSerializationApi::class)
internal fun readTokenizerFile(file: File): TokenizerFile =
    file.inputStream().buffered().use { json.decodeFromStream<TokenizerFile>(it) }.also {
        require(it.model.type == "BPE" && it.model.byteFallback && !it.model.ignoreMerges) {
            "its kind is not BPE with byte fallback"
        }
    }
