package dev.gemma4edge.core.media

import dev.gemma4edge.core.bundle.BundleException
import java.io.File
import java.io.IOException
import kotlinx.serialization.ExperimentalSerializationApi
import kotlinx.serialization.Serializable
import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonNamingStrategy

/** What of the checkpoint's `processor_config.json` an app needs to prepare images and sound itself. */
@Serializable
data class ProcessorConfig(
    val imageProcessor: ImageProcessor,
    val featureExtractor: FeatureExtractor,
    val audioSeqLength: Int
) {
    /** Samples of the longest clip that the model was made for. */
    val longestClip get() = audioSeqLength * featureExtractor.featureSize
}

/** Patches of [patchSize] pixels, of which [poolingKernelSize] along each side become one soft token. */
@Serializable
data class ImageProcessor(val patchSize: Int, val poolingKernelSize: Int, val maxSoftTokens: Int) {
    /** Pixels along the side of what becomes one soft token. */
    val cell get() = patchSize * poolingKernelSize
}

/** Samples per second, and samples of one soft token. */
@Serializable
data class FeatureExtractor(val samplingRate: Int, val featureSize: Int)

@OptIn(ExperimentalSerializationApi::class)
private val json =
    Json {
        ignoreUnknownKeys = true
        namingStrategy = JsonNamingStrategy.SnakeCase
    }

/**
 * Null where there is none, as the checkpoint of a model of text has a tokenizer alone.
 *
 * @throws BundleException the file is damaged.
 */
fun readProcessorConfig(bundle: File): ProcessorConfig? {
    val file = File(bundle, "processor_config.json")
    if (!file.exists()) return null
    try {
        return json.decodeFromString(file.readText())
    } catch (error: IOException) {
        throw BundleException("$file cannot be read: copy the bundle again", error)
    } catch (error: SerializationException) {
        throw BundleException(
            "$file is not as expected (${error.message?.lineSequence()?.first()}): export the bundle again",
            error
        )
    }
}
