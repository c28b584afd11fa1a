package dev.gemma4edge.app.media

import android.annotation.SuppressLint
import android.media.AudioFormat
import android.media.AudioRecord
import android.media.MediaRecorder
import dev.gemma4edge.core.media.ProcessorConfig
import dev.gemma4edge.core.media.Sound
import java.io.IOException

/** The microphone, at the model's rate. */
class Recorder(private val processor: ProcessorConfig) {
    @Volatile
    private var running = false

    /**
     * Records until [stop], or as long as the model hears. It blocks.
     *
     * @throws IOException the microphone is taken, or may not be used.
     */
    @SuppressLint("MissingPermission") // asked for before
    fun record(): Sound {
        running = true
        val rate = processor.featureExtractor.samplingRate
        val size = AudioRecord.getMinBufferSize(rate, AudioFormat.CHANNEL_IN_MONO, AudioFormat.ENCODING_PCM_16BIT)
        if (size <= 0) throw IOException("the microphone does not record at $rate Hz")
        val source = MediaRecorder.AudioSource.MIC
        val record = AudioRecord(source, rate, AudioFormat.CHANNEL_IN_MONO, AudioFormat.ENCODING_PCM_16BIT, 2 * size)
        try {
            if (record.state != AudioRecord.STATE_INITIALIZED) throw IOException("the microphone is not to be had")
            record.startRecording()
            return Sound(rate, read(record, size))
        } finally {
            record.release()
        }
    }

    fun stop() {
        running = false
    }

    private fun read(record: AudioRecord, size: Int): FloatArray {
        val block = ShortArray(size / 2)
        val samples = FloatArray(processor.longestClip)
        var count = 0
        while (running && count < samples.size) {
            val read = record.read(block, 0, minOf(block.size, samples.size - count))
            if (read < 0) throw IOException("the microphone stopped ($read)")
            for (at in 0 until read) samples[count++] = block[at] / 32768f
        }
        return samples.copyOf(count)
    }
}
