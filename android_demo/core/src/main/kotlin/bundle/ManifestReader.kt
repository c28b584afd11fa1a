package dev.gemma4edge.core.bundle

import java.io.File
import java.io.IOException
import kotlinx.serialization.ExperimentalSerializationApi
import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonNamingStrategy
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.decodeFromJsonElement

const val FORMAT_VERSION = 2
const val MANIFEST_FILE = "manifest.json"
internal const val LARGEST_MANIFEST = 4L shl 20 // bytes; the 12B's has a tenth
private const val AGAIN = "export the bundle again with this version"

/** What is wrong with a bundle, and what to do about it, in one line. */
class BundleException(message: String, cause: Throwable? = null) : IOException(message, cause)

/** As strict as Python's records: no unknown keys, no missing ones. */
@OptIn(ExperimentalSerializationApi::class)
val strictJson = Json { namingStrategy = JsonNamingStrategy.SnakeCase }

/**
 * Reads the manifest of the bundle in [folder]; opens no other file.
 *
 * @throws BundleException there is none, or it is damaged, of another version, or names something outside.
 */
fun readManifest(folder: File): Manifest {
    val file = File(folder, MANIFEST_FILE)
    if (!file.isFile) {
        throw BundleException(
            "$folder holds no $MANIFEST_FILE: choose a folder that `make export TARGET=android` wrote"
        )
    }
    if (file.length() > LARGEST_MANIFEST) {
        throw BundleException("$file has more than ${LARGEST_MANIFEST shr 20} MiB, which no manifest needs: $AGAIN")
    }
    val manifest = parseManifest(file.readText())
    namedPaths(manifest).distinct().forEach { requireInside(folder, it) }
    return manifest
}

/**
 * A manifest from its [text]; paths are checked as far as their names go.
 *
 * @throws BundleException it is damaged, or of another version's schema.
 */
fun parseManifest(text: String): Manifest {
    val manifest =
        try {
            val found = strictJson.parseToJsonElement(text)
            requireVersion(found as? JsonObject ?: throw BundleException("$MANIFEST_FILE holds no JSON object: $AGAIN"))
            strictJson.decodeFromJsonElement<Manifest>(found)
        } catch (error: SerializationException) {
            throw damaged(error)
        } catch (error: IllegalArgumentException) {
            throw damaged(error)
        }
    namedPaths(manifest).forEach(::requirePlain)
    return manifest
}

/** Before all else: a newer schema may differ in anything. */
private fun requireVersion(found: JsonObject) {
    val version =
        (found["format_version"] as? JsonPrimitive)?.takeUnless { it.isString }?.content?.toIntOrNull()
            ?: throw BundleException("$MANIFEST_FILE says no format_version: $AGAIN")
    if (version > FORMAT_VERSION) {
        throw BundleException("format_version $version is newer than this app, which reads $FORMAT_VERSION: update it")
    }
    if (version < FORMAT_VERSION) {
        throw BundleException("format_version $version, this app reads $FORMAT_VERSION: $AGAIN")
    }
}

private fun damaged(error: Exception): BundleException {
    val reason = error.message.orEmpty().lineSequence().first()
    return BundleException("$MANIFEST_FILE is not as expected ($reason): $AGAIN", error)
}

/** All that a reader might open, with forward slashes. */
fun namedPaths(manifest: Manifest): Sequence<String> = sequence {
    yieldAll(manifest.files.map { it.path })
    manifest.artifacts.forEach { (format, artifact) ->
        yield(format)
        yieldAll(artifact.programs.values.map { it.file })
        artifact.host?.let {
            yieldAll(it.chunks + it.heads + listOfNotNull(it.embedding.codes, it.embedding.scales))
        }
        artifact.loadOptions?.values?.forEach { options ->
            yieldAll(options.filterKeys { it.endsWith("_path") }.values.map { it.content })
        }
    }
    yieldAll(manifest.goldens.flatMap { listOf(it.file, it.tensors) })
}
