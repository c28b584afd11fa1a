package dev.gemma4edge.core.media

import dev.gemma4edge.core.session.Frames
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder

private const val PCM = 1
private const val FLOAT = 3
private const val EXTENSIBLE = 0xFFFE

/** Samples of one channel in -1..1 at [rate] Hz. */
class Sound(val rate: Int, val samples: FloatArray) {
    val seconds get() = samples.size.toDouble() / rate

    /**
     * Cut into frames of one soft token each, the last one filled with silence.
     *
     * @throws IOException of another rate than the model's, or longer than it was made for.
     */
    fun frames(processor: ProcessorConfig): Frames {
        val wanted = processor.featureExtractor
        if (rate !=
            wanted.samplingRate
        ) {
            throw IOException("the clip has $rate Hz, the model takes ${wanted.samplingRate}: convert it")
        }
        if (samples.isEmpty()) throw IOException("the clip is empty: record or choose another")
        if (samples.size > processor.longestClip) {
            throw IOException(
                "the clip is longer than ${processor.longestClip / rate} seconds, the most that is heard: cut it"
            )
        }
        val width = wanted.featureSize
        return Frames(samples.copyOf((samples.size + width - 1) / width * width), width)
    }
}

/**
 * A WAV file of 16-bit or float samples, channels averaged.
 *
 * @throws IOException it is another kind of file, or damaged.
 */
fun readWav(bytes: ByteArray): Sound {
    val buffer = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN)
    try {
        if (buffer.tag() != "RIFF") throw IOException("no WAV file: choose one of 16-bit samples")
        buffer.getInt()
        if (buffer.tag() != "WAVE") throw IOException("no WAV file: choose one of 16-bit samples")
        var format: ByteBuffer? = null
        while (buffer.remaining() >= 8) {
            val tag = buffer.tag()
            val told = buffer.getInt().toUInt().toLong() // recorders may leave it open
            val length = minOf(told, buffer.remaining().toLong()).toInt()
            val chunk = buffer.slice().order(ByteOrder.LITTLE_ENDIAN).also { it.limit(length) }
            if (tag == "fmt ") format = chunk
            if (tag == "data") return sound(format ?: throw IOException("the WAV file does not say its format"), chunk)
            buffer.position(minOf(buffer.position() + length + length % 2, buffer.limit()))
        }
    } catch (error: RuntimeException) { // buffers tell of their ends so
        throw IOException("the WAV file is cut short: choose another", error)
    }
    throw IOException("the WAV file has no samples: choose another")
}

private fun ByteBuffer.tag() = ByteArray(4).also(::get).decodeToString()

private fun sound(format: ByteBuffer, data: ByteBuffer): Sound {
    val channels = format.getShort(2).toInt()
    val rate = format.getInt(4)
    val bits = format.getShort(14).toInt()
    val kind = format.getShort(0).toInt().and(0xFFFF).let { if (it == EXTENSIBLE) format.getShort(24).toInt() else it }
    val read: (Int) -> Float =
        when (kind to bits) {
            PCM to 16 -> { at -> data.getShort(2 * at) / 32768f }
            FLOAT to 32 -> { at -> data.getFloat(4 * at) }
            else -> throw IOException("the WAV file has samples of $bits bits in format $kind: convert it to 16 bits")
        }
    val count = data.remaining() / (bits / 8) / channels
    return Sound(
        rate,
        FloatArray(count) { at ->
            (0 until channels).sumOf { read(at * channels + it).toDouble() }.div(channels).toFloat()
        }
    )
}
