package dev.gemma4edge.core.prompt

import dev.gemma4edge.core.bundle.MediaKind
import dev.gemma4edge.core.bundle.TurnRole
import dev.gemma4edge.core.media.Pixels
import dev.gemma4edge.core.session.Frames
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject

/** One message of a conversation. */
sealed interface Message

/** What somebody said; [calls] are the model's. */
data class Turn(val role: TurnRole, val parts: List<Part>, val calls: List<WrittenCall> = emptyList()) : Message {
    constructor(role: TurnRole, text: String) : this(role, listOf(Part.Text(text)))
}

/** What a tool answered; anything but an object becomes one with the key `value`. */
data class ToolResponse(val name: String, val content: JsonElement) : Message

/** A call with its arguments: an object, or text as the model wrote it. */
data class WrittenCall(val name: String, val arguments: JsonElement)

/** What a tool is for: [parameters] is a JSON Schema. */
data class Tool(val name: String, val description: String = "", val parameters: JsonObject = JsonObject(emptyMap()))

/** A part of a turn. */
sealed interface Part {
    /** Plain text. */
    data class Text(val text: String) : Part

    /** Something that is no text. */
    sealed class Media(val kind: MediaKind) : Part

    /** An image in the size that the model takes. */
    class Image(val pixels: Pixels) : Media(MediaKind.IMAGE)

    /** A clip of sound. */
    class Clip(val frames: Frames) : Media(MediaKind.AUDIO)
}
