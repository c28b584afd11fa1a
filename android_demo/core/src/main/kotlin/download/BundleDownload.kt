package dev.gemma4edge.core.download

import dev.gemma4edge.core.bundle.BundleException
import dev.gemma4edge.core.bundle.BundleFile
import dev.gemma4edge.core.bundle.LARGEST_MANIFEST
import dev.gemma4edge.core.bundle.MANIFEST_FILE
import dev.gemma4edge.core.bundle.parseManifest
import dev.gemma4edge.core.bundle.requireInside
import dev.gemma4edge.core.bundle.sha256
import dev.gemma4edge.core.device.gigabytes
import java.io.ByteArrayOutputStream
import java.io.File
import java.io.IOException
import java.io.InputStream
import java.io.InterruptedIOException

/** How far a download is: bytes of all files, and the file that is being fetched. */
data class DownloadProgress(val path: String, val done: Long, val total: Long)

/**
 * Fetches a bundle from a web server, which serves its folder as it is.
 *
 * Files grow beside the bundle, in `.NAME.partial`, under the name `FILE.part`; a file whose sha256 is right gets its own
 * name, and the folder its own when all are there. What is interrupted goes on where it was.
 *
 * @param keepGoing asked after each block; false ends [fetch] with [InterruptedIOException].
 */
class BundleDownload(
    private val http: Http,
    keepGoing: () -> Boolean = { true },
    private val told: (DownloadProgress) -> Unit = {}
) {
    private val transfer = FileTransfer(http, keepGoing)

    /**
     * @param url of the bundle's folder.
     * @param target folder that the bundle becomes; an older one there is replaced only by a whole one.
     * @throws BundleException the server has no such bundle, or not the bytes that its manifest promises.
     * @throws IOException the connection broke, or there is no room; another call goes on from there.
     */
    fun fetch(url: String, target: File): File {
        val partial = File(target.absoluteFile.parentFile, ".${target.name}.partial")
        val base = url.trimEnd('/')
        val text = text("$base/$MANIFEST_FILE")
        val files = parseManifest(text).files
        partial.mkdirs()
        requireRoom(files, partial)
        fetchAll(base, files, partial)
        File(partial, MANIFEST_FILE).writeText(text)
        put(partial, target)
        return target
    }

    private fun fetchAll(base: String, files: List<BundleFile>, partial: File) {
        val total = files.sumOf { it.size }
        var done = 0L
        for (file in files) {
            fetchFile("$base/${file.path}", file, requireInside(partial, file.path)) {
                told(DownloadProgress(file.path, done + it, total))
            }
            done += file.size
        }
    }

    private fun fetchFile(url: String, wanted: BundleFile, target: File, told: (Long) -> Unit) {
        if (target.length() == wanted.size && target.isFile && sha256(target) == wanted.sha256) return told(wanted.size)
        target.parentFile?.mkdirs()
        val part = File(target.path + ".part")
        val resumes = part.length() > 0
        var next = transfer.attempt(url, wanted, part, told)
        if (next == Next.BEGIN_AGAIN && resumes) next = transfer.attempt(url, wanted, part, told)
        when (next) {
            Next.DONE -> rename(part, target)

            Next.CONTINUE -> throw IOException(
                "the connection ended within ${wanted.path}: try again, it goes on there"
            )

            Next.BEGIN_AGAIN -> throw BundleException(
                "${wanted.path} is not what its manifest says: the server's is damaged"
            )
        }
    }

    private fun text(url: String): String = http.get(url, 0).use { answer ->
        answer.requireSuccess(url)
        read(answer.body, LARGEST_MANIFEST)
            ?: throw BundleException("$url has more than ${LARGEST_MANIFEST shr 20} MiB: it is no manifest of a bundle")
    }

    /** Null where more than [most] bytes come: a server may send without end. */
    private fun read(body: InputStream, most: Long): String? {
        val found = ByteArrayOutputStream()
        val block = ByteArray(BLOCK)
        while (found.size() <= most) {
            val count = body.read(block)
            if (count < 0) return found.toByteArray().decodeToString()
            found.write(block, 0, count)
        }
        return null
    }

    private fun requireRoom(files: List<BundleFile>, partial: File) {
        val there = partial.walk().filter { it.isFile }.sumOf { it.length() }
        val missing = files.sumOf { it.size } - there
        if (missing > partial.usableSpace) {
            throw IOException(
                "the download needs ${gigabytes(missing)} more, ${gigabytes(partial.usableSpace)} are free: make room"
            )
        }
    }

    private fun put(partial: File, target: File) {
        val old = File(target.path + ".old")
        old.deleteRecursively()
        if (target.exists()) rename(target, old)
        rename(partial, target)
        old.deleteRecursively()
    }

    private fun rename(from: File, to: File) {
        if (!from.renameTo(
                to
            )
        ) {
            throw IOException("${from.name} cannot be renamed to ${to.name}: is the folder writable?")
        }
    }
}
