package dev.gemma4edge.core.bundle

import java.io.File
import java.security.MessageDigest

private const val BLOCK = 1 shl 20

/** A file that is not as the manifest says, and how. */
data class Fault(val path: String, val reason: String)

/**
 * Whether every file of the bundle is there with its size and sha256.
 *
 * @param told is given the bytes read so far.
 * @return what is wrong; nothing where the bundle is whole.
 */
fun verifyFiles(folder: File, files: List<BundleFile>, told: (Long) -> Unit = {}): List<Fault> {
    var read = 0L
    return files.mapNotNull { file ->
        faultOf(requireInside(folder, file.path), file) { told(read + it) }.also { read += file.size }
    }
}

/** Files that are missing or cut short, as an interrupted copy leaves them; reads none. */
fun unfinishedFiles(folder: File, files: List<BundleFile>): List<Fault> =
    files.mapNotNull { sizeFault(requireInside(folder, it.path), it) }

private fun faultOf(found: File, wanted: BundleFile, told: (Long) -> Unit): Fault? = sizeFault(found, wanted)
    ?: Fault(wanted.path, "is damaged: its sha256 differs").takeIf { sha256(found, told) != wanted.sha256 }

private fun sizeFault(found: File, wanted: BundleFile): Fault? = when {
    !found.isFile -> Fault(wanted.path, "is missing")
    found.length() != wanted.size -> Fault(wanted.path, "has ${found.length()} bytes, not ${wanted.size}")
    else -> null
}

/** sha256 of a file in hexadecimal; [told] is given the bytes read so far. */
fun sha256(file: File, told: (Long) -> Unit = {}): String {
    val digest = MessageDigest.getInstance("SHA-256")
    val block = ByteArray(BLOCK)
    var read = 0L
    file.inputStream().use { stream ->
        while (true) {
            val count = stream.read(block)
            if (count < 0) break
            digest.update(block, 0, count)
            read += count
            told(read)
        }
    }
    return digest.digest().joinToString("") { "%02x".format(it) }
}
