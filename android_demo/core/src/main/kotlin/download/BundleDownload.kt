package dev.gemma4edge.core.download

import dev.gemma4edge.core.bundle.BundleException
import dev.gemma4edge.core.bundle.BundleFile
import dev.gemma4edge.core.bundle.MANIFEST_FILE
import dev.gemma4edge.core.bundle.parseManifest
import dev.gemma4edge.core.bundle.requireInside
import dev.gemma4edge.core.bundle.sha256
import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.io.InterruptedIOException
import java.net.HttpURLConnection.HTTP_OK
import java.net.HttpURLConnection.HTTP_PARTIAL

private const val RANGE_NOT_SATISFIABLE = 416
private const val BLOCK = 1 shl 18

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
    private val keepGoing: () -> Boolean = { true },
    private val told: (DownloadProgress) -> Unit = {}
) {
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
        val resumed = part.length() > 0
        append(url, wanted, part, told)
        if (!isWhole(part, wanted) && resumed) { // what was there before was another file's beginning
            part.delete()
            append(url, wanted, part, told)
        }
        if (!isWhole(part, wanted)) {
            part.delete()
            throw BundleException(
                "${wanted.path} came with another sha256 than its manifest says: the server's bundle is damaged"
            )
        }
        rename(part, target)
    }

    private fun isWhole(part: File, wanted: BundleFile) = part.length() == wanted.size && sha256(part) == wanted.sha256

    private fun append(url: String, wanted: BundleFile, part: File, told: (Long) -> Unit) {
        if (part.length() > wanted.size) part.delete()
        if (part.length() == wanted.size && part.isFile) return
        http.get(url, part.length()).use { answer ->
            if (answer.status == RANGE_NOT_SATISFIABLE) {
                part.delete()
                throw IOException("the server cannot continue ${wanted.path}: try again, it begins anew")
            }
            requireSuccess(answer, wanted.path)
            val start = if (answer.resumes) part.length() else 0
            FileOutputStream(part, answer.resumes).use { copy(answer, it, start, wanted, told) }
        }
        if (part.length() <
            wanted.size
        ) {
            throw IOException("the connection ended within ${wanted.path}: try again, it goes on from there")
        }
    }

    private fun copy(answer: Answer, output: FileOutputStream, start: Long, wanted: BundleFile, told: (Long) -> Unit) {
        val block = ByteArray(BLOCK)
        var length = start
        while (true) {
            val count = answer.body.read(block)
            if (count < 0) break
            output.write(block, 0, count)
            length += count
            if (length >
                wanted.size
            ) {
                throw BundleException(
                    "${wanted.path} is longer than its manifest says: the server's bundle is damaged"
                )
            }
            told(length)
            if (!keepGoing()) throw InterruptedIOException("paused within ${wanted.path}")
        }
        output.fd.sync() // a name promises bytes on disk
    }

    private fun text(url: String): String = http.get(url, 0).use { answer ->
        requireSuccess(answer, url)
        answer.body.readBytes().decodeToString()
    }

    private fun requireSuccess(answer: Answer, what: String) {
        if (answer.status != HTTP_OK && answer.status != HTTP_PARTIAL) {
            throw BundleException("the server answers ${answer.status} for $what: look at the address")
        }
    }

    private fun requireRoom(files: List<BundleFile>, partial: File) {
        val there = partial.walk().filter { it.isFile }.sumOf { it.length() }
        val missing = files.sumOf { it.size } - there
        if (missing > partial.usableSpace) {
            throw IOException(
                "the download needs ${missing shr 20} MiB more, ${partial.usableSpace shr 20} MiB are free: make room"
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
