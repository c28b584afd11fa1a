package dev.gemma4edge.core.download

import com.sun.net.httpserver.HttpServer
import dev.gemma4edge.core.Vectors
import dev.gemma4edge.core.at
import dev.gemma4edge.core.bundle.BundleFile
import dev.gemma4edge.core.int
import dev.gemma4edge.core.objects
import dev.gemma4edge.core.orNull
import dev.gemma4edge.core.text
import dev.gemma4edge.core.unhex
import java.io.File
import java.net.InetAddress
import java.net.InetSocketAddress
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonPrimitive
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** Each vector's answer comes from a real server. */
class FileTransferTest {
    @get:Rule
    val folder = TemporaryFolder()

    private val vectors = Vectors.read("downloads")
    private val file = vectors.at("file").let {
        BundleFile(it.text("path"), it.int("size").toLong(), it.text("sha256"))
    }

    @Test
    fun `attempts end alike`() {
        for (case in vectors.objects("cases")) {
            val name = case.text("name")
            val part = File(folder.root, name)
            case.text("part").unhex().takeIf { it.isNotEmpty() }?.let(part::writeBytes)
            val asked = ArrayList<String?>()
            val next = answering(case, asked) { url -> FileTransfer(UrlHttp()) { true }.attempt(url, file, part) {} }
            assertEquals(name, case.text("then"), next.name.lowercase().replace('_', ' '))
            val answers = case.orNull("status") != null
            assertEquals(
                name,
                if (answers) listOf(case.orNull("range")?.jsonPrimitive?.content) else emptyList(),
                asked
            )
            if (next ==
                Next.BEGIN_AGAIN
            ) {
                assertFalse(name, part.exists())
            } else {
                assertArrayEquals(name, case.text("after").unhex(), part.readBytes())
            }
        }
    }

    private fun answering(case: JsonObject, asked: MutableList<String?>, attempt: (String) -> Next): Next {
        val server = HttpServer.create(InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0)
        server.createContext("/") { exchange ->
            asked += exchange.requestHeaders.getFirst("Range")
            val body = case.text("body").unhex()
            exchange.sendResponseHeaders(
                case.at("status").jsonPrimitive.int,
                if (body.isEmpty()) -1 else body.size.toLong()
            )
            exchange.responseBody.use { it.write(body) }
        }
        server.start()
        try {
            return attempt("http://127.0.0.1:${server.address.port}/file")
        } finally {
            server.stop(0)
        }
    }
}
