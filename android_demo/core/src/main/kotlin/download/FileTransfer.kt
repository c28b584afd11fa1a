package dev.gemma4edge.core.download

import dev.gemma4edge.core.bundle.BundleException
import dev.gemma4edge.core.bundle.BundleFile
import dev.gemma4edge.core.bundle.sha256
import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.io.InterruptedIOException

private const val RANGE_NOT_SATISFIABLE = 416
internal const val BLOCK = 1 shl 18

/** What to do after an attempt. */
enum class Next {
    /** The part is whole: it gets its own name. */
    DONE,

    /** Bytes are missing: another attempt goes on behind those that are there. */
    CONTINUE,

    /** What was there is of no use and is gone. */
    BEGIN_AGAIN
}

/** One file, in as many attempts as it takes; a `Range` asks for what is missing. */
internal class FileTransfer(private val http: Http, private val keepGoing: () -> Boolean) {
    /**
     * Adds to [part] what is missing of [wanted].
     *
     * @param told is given the length of the part.
     * @throws IOException the connection broke, or [keepGoing] ended it; the part stays.
     */
    fun attempt(url: String, wanted: BundleFile, part: File, told: (Long) -> Unit): Next {
        if (part.length() > wanted.size) part.delete()
        if (part.length() < wanted.size || !part.exists()) {
            http.get(url, part.length()).use { answer ->
                if (answer.status == RANGE_NOT_SATISFIABLE) return beginAgain(part)
                answer.requireSuccess(wanted.path)
                append(answer, wanted, part, told)
            }
        }
        return when {
            part.length() < wanted.size -> Next.CONTINUE
            part.length() == wanted.size && sha256(part) == wanted.sha256 -> Next.DONE
            else -> beginAgain(part)
        }
    }

    private fun beginAgain(part: File): Next {
        part.delete()
        return Next.BEGIN_AGAIN
    }

    /** What comes beyond the file's end is not read. */
    private fun append(answer: Answer, wanted: BundleFile, part: File, told: (Long) -> Unit) {
        val block = ByteArray(BLOCK)
        var length = if (answer.resumes) part.length() else 0
        FileOutputStream(part, answer.resumes).use { output ->
            while (length <= wanted.size) {
                val count = answer.body.read(block)
                if (count < 0) break
                output.write(block, 0, count)
                length += count
                told(length)
                if (!keepGoing()) throw InterruptedIOException("paused within ${wanted.path}")
            }
            output.fd.sync() // a name promises bytes on disk
        }
    }
}

internal fun Answer.requireSuccess(what: String) {
    if (status !in 200..299) throw BundleException("the server answers $status for $what: look at the address")
}
