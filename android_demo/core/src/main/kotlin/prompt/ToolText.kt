package dev.gemma4edge.core.prompt

import dev.gemma4edge.core.bundle.ToolMarks
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive

/** Declarations, calls and responses as the template writes them. */
internal class ToolText(private val marks: ToolMarks) {
    /** Behind calls, in place of the turn's end. */
    val opened get() = marks.opened

    fun declaration(tool: Tool): String {
        val told = mapOf("description" to JsonPrimitive(tool.description), "parameters" to tool.parameters)
        return "${marks.declaration.begin}${tool.name}{${pairs(told)}}${marks.declaration.end}"
    }

    fun call(call: WrittenCall): String {
        val arguments = call.arguments
        val written = if (arguments is JsonObject) pairs(arguments) else (arguments as JsonPrimitive).content
        return "${marks.call.begin}${call.name}{$written}${marks.call.end}"
    }

    fun response(response: ToolResponse, opened: Boolean): String {
        val body = response.content as? JsonObject ?: mapOf("value" to response.content)
        val begin = if (opened) marks.response.begin.removePrefix(marks.opened) else marks.response.begin
        return "$begin${response.name}{${pairs(body)}}${marks.response.end}"
    }

    private fun pairs(values: Map<String, JsonElement>): String =
        values.entries.sortedBy { it.key.lowercase() }.joinToString(",") { (key, value) -> "$key:${text(value)}" }

    private fun text(value: JsonElement): String = when (value) {
        is JsonObject -> "{${pairs(value)}}"

        is JsonArray -> value.joinToString(",", "[", "]", transform = ::text)

        JsonNull -> "None"

        // Python's word for it: the template is written in its terms
        is JsonPrimitive -> if (value.isString) marks.quote + value.content + marks.quote else value.content
    }
}
