package dev.gemma4edge.core.bundle

import kotlinx.serialization.SerialName
import kotlinx.serialization.Serializable

/** The checkpoint's chat template as literal text; `prompt/` builds prompts of it. */
@Serializable
data class Dialogue(
    val begin: String,
    val turns: Map<TurnRole, TurnMarks>,
    val thinking: String,
    val generation: String,
    val generationThinking: String,
    val trimmed: Boolean,
    val thought: TurnMarks?,
    val media: Map<MediaKind, MediumMarks>,
    val order: List<PartKind>,
    val tools: ToolMarks?
)

/** Text before and behind something. */
@Serializable
data class TurnMarks(val begin: String, val end: String)

/** What stands for an image or a clip in a prompt, and what it is written out as: [soft] for each soft token. */
@Serializable
data class MediumMarks(val placeholder: String, val begin: String, val soft: String, val end: String)

/** How tools are told of, called and answered. */
@Serializable
data class ToolMarks(
    val declaration: TurnMarks,
    val call: TurnMarks,
    val response: TurnMarks,
    val opened: String,
    val quote: String
)

/** Whose turn it is. */
@Serializable
enum class TurnRole {
    @SerialName("system")
    SYSTEM,

    @SerialName("user")
    USER,

    @SerialName("model")
    MODEL
}

/** Kinds of media. */
@Serializable
enum class MediaKind {
    @SerialName("image")
    IMAGE,

    @SerialName("audio")
    AUDIO,

    @SerialName("video")
    VIDEO
}

/** Kinds of parts of a turn. */
@Serializable
enum class PartKind {
    @SerialName("image")
    IMAGE,

    @SerialName("video")
    VIDEO,

    @SerialName("audio")
    AUDIO,

    @SerialName("text")
    TEXT
}
