package dev.gemma4edge.core.reply

import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive

/** A call of a tool. */
data class ToolCall(val name: String, val arguments: JsonObject)

private val CALLED = Regex("""\s*call:([^{\s]+)\s*\{(.*)\}\s*""", RegexOption.DOT_MATCHES_ALL)
private val BARE_KEY = Regex("""([{,\[]|^)\s*([A-Za-z_][\w.-]*)\s*:""")
private val LITERAL = Regex("""true|false|null|-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?""")

/**
 * `call:NAME{key:value,...}` to its parts; null where it is not of this form.
 *
 * Strings stand between [Marks.QUOTE]; keys are bare; numbers, true, false, null, lists and objects are JSON's.
 */
fun parseCall(written: String): ToolCall? {
    val (name, arguments) = CALLED.matchEntire(written)?.destructured ?: return null
    val text = "{" + (asJson(arguments) ?: return null) + "}"
    return try {
        (Json.parseToJsonElement(text) as? JsonObject)?.takeIf(::isJson)?.let { ToolCall(name, it) }
    } catch (_: SerializationException) {
        null
    }
}

/** Quoted strings to JSON's, bare keys in quotes; null where a string does not end. */
private fun asJson(arguments: String): String? {
    val parts = arguments.split(Marks.QUOTE)
    if (parts.size % 2 == 0) return null
    return parts.withIndex().joinToString("") { (index, part) ->
        if (index % 2 == 1) JsonPrimitive(part).toString() else part.replace(BARE_KEY, """$1"$2":""")
    }
}

/** The parser takes any bare word for a value. */
private fun isJson(element: JsonElement): Boolean = when (element) {
    is JsonObject -> element.values.all(::isJson)
    is JsonArray -> element.all(::isJson)
    is JsonPrimitive -> element.isString || LITERAL.matches(element.content)
}
