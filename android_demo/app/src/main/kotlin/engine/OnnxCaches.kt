package dev.gemma4edge.app.engine

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import java.io.Closeable
import java.io.File
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel

private const val PAST = "past_key_values"
private const val PRESENT = "present"

/**
 * Keys and values of a decoder, each an input and the output behind it, so that they are written in place.
 *
 * They lie in a sparse file that is mapped, as Android counts direct buffers as Java's heap, which is smaller. Nobody can
 * open the file: it has no name any more.
 */
internal class OnnxCaches(
    private val environment: OrtEnvironment,
    decoder: OrtSession,
    config: OnnxConfig,
    scratch: File
) : Closeable {
    private val tensors: Map<String, OnnxTensor> =
        decoder.inputInfo.filterKeys { it.startsWith(PAST) }.mapValues { (_, node) ->
            val info = node.info as TensorInfo
            empty(info.type, shape(info, config.slots), scratch)
        }

    val inputs: Map<String, OnnxTensor> get() = tensors
    val outputs: Map<String, OnnxTensor> get() = tensors.mapKeys { (name, _) -> name.replace(PAST, PRESENT) }

    override fun close() = tensors.values.forEach(OnnxTensor::close)

    private fun shape(info: TensorInfo, slots: Map<String, Int>): LongArray {
        val names = info.dimensionNames
        return LongArray(info.shape.size) { axis -> slots[names[axis]]?.toLong() ?: info.shape[axis] }
    }

    private fun empty(type: OnnxJavaType, shape: LongArray, scratch: File): OnnxTensor {
        val bytes = zeros(shape.fold(type.size.toLong(), Long::times), scratch)
        return if (type == OnnxJavaType.INT8) {
            OnnxTensor.createTensor(environment, bytes, shape, type)
        } else {
            OnnxTensor.createTensor(environment, bytes.asFloatBuffer(), shape)
        }
    }

    private fun zeros(size: Long, scratch: File): ByteBuffer {
        val file = File.createTempFile("cache", null, scratch)
        try {
            RandomAccessFile(file, "rw").use {
                it.setLength(size)
                return it.channel.map(FileChannel.MapMode.READ_WRITE, 0, size).order(ByteOrder.nativeOrder())
            }
        } finally {
            file.delete()
        }
    }
}
