package dev.gemma4edge.core

import java.io.File
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.boolean
import kotlinx.serialization.json.double
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import kotlinx.serialization.json.long
import org.junit.Assert.assertEquals

/** What `python -m tests.vectors` wrote: the apps must agree with it. */
object Vectors {
    private val folder =
        File(System.getProperty("vectors") ?: error("-Dvectors=FOLDER, of `python -m tests.vectors FOLDER`"))

    /** Where paths in vectors begin. */
    val repository = File(System.getProperty("repository") ?: "..")

    fun read(topic: String): JsonObject = Json.parseToJsonElement(File(folder, "$topic.json").readText()).jsonObject
}

internal fun JsonElement.at(key: String): JsonElement = jsonObject.getValue(key)

internal fun JsonElement.objects(key: String): List<JsonObject> = at(key).jsonArray.map { it.jsonObject }

internal fun JsonElement.text(key: String): String = at(key).jsonPrimitive.also { require(it.isString) }.content

internal fun JsonElement.int(key: String): Int = at(key).jsonPrimitive.int

internal fun JsonElement.long(key: String): Long = at(key).jsonPrimitive.long

internal fun JsonElement.double(key: String): Double = at(key).jsonPrimitive.double

internal fun JsonElement.boolean(key: String): Boolean = at(key).jsonPrimitive.boolean

internal fun JsonElement.orNull(key: String): JsonElement? = jsonObject[key].takeUnless { it == JsonNull }

internal fun JsonElement.ints(): List<Int> = jsonArray.map { it.jsonPrimitive.int }

internal fun JsonElement.doubles(): List<Double> = jsonArray.map { it.jsonPrimitive.double }

internal fun JsonElement.floats(): FloatArray = doubles().map { it.toFloat() }.toFloatArray()

internal fun JsonElement.strings(): List<String> = jsonArray.map { it.jsonPrimitive.content }

internal fun String.unhex(): ByteArray = chunked(2) { it.toString().toInt(16).toByte() }.toByteArray()

/** Numbers by value: `3e2` is `300.0`. */
internal fun JsonElement.plain(): Any? = when (this) {
    is JsonObject -> mapValues { it.value.plain() }
    is JsonArray -> map { it.plain() }
    JsonNull -> null
    is JsonPrimitive -> if (isString) "'$content'" else content.toDoubleOrNull() ?: content
}

/** By the tolerance that the vectors' README names. */
internal fun assertNear(message: String, wanted: Double, found: Double, tolerance: Double = 1e-5) =
    assertEquals(message, wanted, found, tolerance * maxOf(1e-12, kotlin.math.abs(wanted)) + 1e-12)
