package dev.gemma4edge.core.selftest

import dev.gemma4edge.core.bundle.BundleException
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlinx.serialization.SerialName
import kotlinx.serialization.Serializable
import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.decodeFromJsonElement
import kotlinx.serialization.json.jsonObject

/** A tensor of a safetensors file, in row-major order. */
class Tensor(val dtype: String, val shape: List<Int>, private val bytes: ByteBuffer) {
    val size get() = shape.fold(1, Int::times)

    fun floats() = FloatArray(size).also { view("F32").asFloatBuffer().get(it) }

    fun longs() = LongArray(size).also { view("I64").asLongBuffer().get(it) }

    fun booleans() = view("BOOL").let { view -> BooleanArray(size) { view.get(it) != 0.toByte() } }

    private fun view(wanted: String): ByteBuffer {
        if (dtype != wanted) throw BundleException("a tensor is of type $dtype where $wanted is expected")
        return bytes.slice().order(ByteOrder.LITTLE_ENDIAN)
    }
}

@Serializable
private data class Header(val dtype: String, val shape: List<Int>, @SerialName("data_offsets") val offsets: List<Int>)

private const val LARGEST_HEADER = 1L shl 20
private val WIDTHS = mapOf("F32" to 4, "I64" to 8, "BOOL" to 1)

/**
 * Tensors by name.
 *
 * @throws BundleException the file is damaged, or holds types that goldens do not.
 */
fun readSafetensors(file: File): Map<String, Tensor> {
    val bytes = ByteBuffer.wrap(file.readBytes()).order(ByteOrder.LITTLE_ENDIAN)
    try {
        val length = bytes.getLong()
        require(length in 2..minOf(LARGEST_HEADER, bytes.remaining().toLong())) { "its header has $length bytes" }
        val header = ByteArray(length.toInt()).also(bytes::get).decodeToString()
        val data = bytes.slice()
        return Json.parseToJsonElement(header).jsonObject.filterKeys { it != "__metadata__" }.mapValues { (_, entry) ->
            tensor(Json.decodeFromJsonElement<Header>(entry as JsonObject), data)
        }
    } catch (error: SerializationException) {
        throw BundleException("$file is damaged (${error.message?.lineSequence()?.first()}): copy it again", error)
    } catch (error: RuntimeException) { // buffers and lists tell of bad bounds in several ways
        throw BundleException("$file is damaged (${error.message}): copy it again", error)
    }
}

private fun tensor(header: Header, data: ByteBuffer): Tensor {
    val (start, end) = header.offsets
    val width = requireNotNull(WIDTHS[header.dtype]) { "its tensors are ${header.dtype}" }
    val wanted = header.shape.fold(width.toLong()) { product, axis -> Math.multiplyExact(product, axis.toLong()) }
    require((end - start).toLong() == wanted) { "a tensor has ${end - start} bytes, not $wanted" }
    data.position(0).limit(end).position(start)
    return Tensor(header.dtype, header.shape, data.slice())
}
