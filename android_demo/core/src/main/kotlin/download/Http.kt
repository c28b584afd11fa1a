package dev.gemma4edge.core.download

import java.io.ByteArrayInputStream
import java.io.Closeable
import java.io.InputStream
import java.net.HttpURLConnection
import java.net.URL

/** What a download needs of HTTP. */
fun interface Http {
    /** Asks for [url] from byte [from] on; the answer may begin at 0 all the same, see [Answer.resumes]. */
    fun get(url: String, from: Long): Answer
}

/** An answer whose [body] is yet to be read. */
class Answer(val status: Int, val body: InputStream, private val release: () -> Unit = {}) : Closeable {
    /** The body continues where it was asked to; otherwise it is the whole file. */
    val resumes get() = status == HttpURLConnection.HTTP_PARTIAL

    override fun close() {
        body.close()
        release()
    }
}

/** [Http] by the platform's own client. */
class UrlHttp(private val timeoutMillis: Int = 30_000) : Http {
    override fun get(url: String, from: Long): Answer {
        val connection = URL(url).openConnection() as HttpURLConnection
        connection.connectTimeout = timeoutMillis
        connection.readTimeout = timeoutMillis
        connection.setRequestProperty("Accept-Encoding", "identity") // ranges count bytes of the file itself
        if (from > 0) connection.setRequestProperty("Range", "bytes=$from-")
        val status = connection.responseCode
        val body = if (status <
            400
        ) {
            connection.inputStream
        } else {
            connection.errorStream ?: ByteArrayInputStream(ByteArray(0))
        }
        return Answer(status, body, connection::disconnect)
    }
}
