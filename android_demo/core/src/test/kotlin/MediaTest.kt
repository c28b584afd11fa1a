package dev.gemma4edge.core.media

import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.random.Random
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Test

class MediaTest {
    private val processor = ImageProcessor(patchSize = 16, poolingKernelSize = 3, maxSoftTokens = 70)
    private val config =
        ProcessorConfig(processor, FeatureExtractor(samplingRate = 16000, featureSize = 640), audioSeqLength = 750)

    @Test
    fun `sizes are whole cells within the budget`() {
        val random = Random(4)
        repeat(1000) {
            val image = ImageSize(random.nextInt(1, 5000), random.nextInt(1, 5000))
            val size = targetSize(image, processor)
            assertEquals(0, size.width % processor.cell)
            assertEquals(0, size.height % processor.cell)
            assertEquals("$image $size", true, size.width / processor.cell * (size.height / processor.cell) in 1..70)
        }
    }

    @Test
    fun `an image that was cut is joined again`() {
        val size = ImageSize(width = 96, height = 48)
        val image = Pixels(size, Random(5).let { random -> FloatArray(3 * 96 * 48) { random.nextFloat() } })
        val patches = image.cut(processor.cell)
        assertEquals(2, patches.count)
        assertArrayEquals(intArrayOf(0, 0, 1, 0), patches.cells)
        assertEquals("the second pixel's red follows the first one's blue", image.values[1], patches.values[3])
        assertArrayEquals(image.values, Pixels.join(patches).values, 0f)
    }

    @Test
    fun `colours of a bitmap become planes`() {
        val pixels = Pixels.of(Picture(ImageSize(2, 1), intArrayOf(0xFF0080FF.toInt(), 0xFFFF0000.toInt())))
        assertArrayEquals(floatArrayOf(0f, 1f, 128 / 255f, 0f, 1f, 0f), pixels.values, 0f)
    }

    @Test
    fun `stereo is averaged, and the last frame filled`() {
        val sound = readWav(wav(rate = 16000, channels = 2, samples = shortArrayOf(100, 300, -32768, -32768)))
        assertArrayEquals(floatArrayOf(200 / 32768f, -1f), sound.samples, 0f)
        val frames = sound.frames(config)
        assertEquals(1, frames.count)
        assertEquals(640, frames.values.size)
    }

    @Test
    fun `what is no clip for the model is refused`() {
        val right = wav(rate = 16000, channels = 1, samples = ShortArray(100))
        listOf(ByteArray(0), "RIFF".toByteArray(), right.copyOf(30), right.copyOf(44).also { it[34] = 24 })
            .forEach { assertThrows(IOException::class.java) { readWav(it) } }
        val refused =
            listOf(Sound(8000, FloatArray(9)), Sound(16000, FloatArray(0)), Sound(16000, FloatArray(750 * 640 + 1)))
        refused.forEach { assertThrows(IOException::class.java) { it.frames(config) } }
    }

    private fun wav(rate: Int, channels: Int, samples: ShortArray): ByteArray {
        val buffer = ByteBuffer.allocate(44 + 2 * samples.size).order(ByteOrder.LITTLE_ENDIAN)
        buffer.put("RIFF".toByteArray()).putInt(36 + 2 * samples.size).put("WAVEfmt ".toByteArray()).putInt(16)
        buffer.putShort(1).putShort(channels.toShort()).putInt(rate).putInt(rate * channels * 2)
        buffer.putShort((2 * channels).toShort()).putShort(16).put("data".toByteArray()).putInt(2 * samples.size)
        samples.forEach { buffer.putShort(it) }
        return buffer.array()
    }
}
