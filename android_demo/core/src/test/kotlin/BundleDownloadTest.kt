package dev.gemma4edge.core.download

import com.sun.net.httpserver.HttpExchange
import com.sun.net.httpserver.HttpServer
import dev.gemma4edge.core.bundle.BundleException
import java.io.File
import java.io.IOException
import java.io.InterruptedIOException
import java.net.InetAddress
import java.net.InetSocketAddress
import java.security.MessageDigest
import kotlin.random.Random
import org.junit.After
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** Against a web server on this machine, which can break connections, ignore ranges and damage bytes. */
class BundleDownloadTest {
    @get:Rule
    val folder = TemporaryFolder()

    private val weights = Random(0).nextBytes(3_000_000)
    private val files = linkedMapOf("executorch/model.pte" to weights, "tokenizer.json" to "{}".toByteArray())
    private val served = LinkedHashMap<String, ByteArray>()
    private val asked = ArrayList<String>() // path and range of each request
    private var cutAfter = Int.MAX_VALUE
    private var takesRanges = true
    private lateinit var server: HttpServer

    private val url get() = "http://127.0.0.1:${server.address.port}/bundle"
    private val target get() = File(folder.root, "tiny-int4")
    private val part get() = File(folder.root, ".tiny-int4.partial/executorch/model.pte.part")

    @Before
    fun serve() {
        served += files
        served["manifest.json"] = manifest(files).toByteArray()
        server = HttpServer.create(InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0)
        server.createContext("/bundle/", ::answer)
        server.start()
    }

    @After
    fun stop() = server.stop(0)

    @Test
    fun `a bundle comes whole, under its own name`() {
        val told = ArrayList<DownloadProgress>()
        BundleDownload(UrlHttp(), told = told::add).fetch(url, target)
        files.forEach { (path, bytes) -> assertArrayEquals(bytes, File(target, path).readBytes()) }
        assertTrue(File(target, "manifest.json").isFile)
        assertEquals(listOf("tiny-int4"), folder.root.list()!!.toList())
        assertEquals(told.last().total, told.last().done)
        assertEquals(told.map { it.done }.sorted(), told.map { it.done })
    }

    @Test
    fun `a broken download goes on where it was`() {
        cutAfter = 1_000_000
        assertThrows(IOException::class.java) { BundleDownload(UrlHttp()).fetch(url, target) }
        assertFalse(target.exists())
        val there = part.length()
        assertTrue("$there", there in 1L until weights.size)
        cutAfter = Int.MAX_VALUE
        BundleDownload(UrlHttp()).fetch(url, target)
        assertTrue("$asked", "executorch/model.pte bytes=$there-" in asked)
        assertArrayEquals(weights, File(target, "executorch/model.pte").readBytes())
    }

    @Test
    fun `a pause ends it and keeps what is there`() {
        assertThrows(InterruptedIOException::class.java) {
            BundleDownload(UrlHttp(), keepGoing = { part.length() < 500_000 }).fetch(url, target)
        }
        assertTrue(part.length() >= 500_000)
        BundleDownload(UrlHttp()).fetch(url, target)
        assertArrayEquals(weights, File(target, "executorch/model.pte").readBytes())
    }

    @Test
    fun `a server without ranges sends the file anew`() {
        part.parentFile.mkdirs()
        part.writeBytes(weights.copyOf(1000))
        takesRanges = false
        BundleDownload(UrlHttp()).fetch(url, target)
        assertArrayEquals(weights, File(target, "executorch/model.pte").readBytes())
    }

    @Test
    fun `the beginning of another file is thrown away`() {
        part.parentFile.mkdirs()
        part.writeBytes(ByteArray(1000))
        BundleDownload(UrlHttp()).fetch(url, target)
        assertArrayEquals(weights, File(target, "executorch/model.pte").readBytes())
    }

    @Test
    fun `a flipped bit is refused, and the older bundle stays`() {
        target.mkdirs()
        File(target, "kept").writeText("older")
        served["executorch/model.pte"] = weights.copyOf().also { it[1234] = (it[1234].toInt() xor 1).toByte() }
        val error = assertThrows(BundleException::class.java) { BundleDownload(UrlHttp()).fetch(url, target) }
        assertTrue(error.message, "manifest" in error.message!!)
        assertEquals("older", File(target, "kept").readText())
        assertFalse("a damaged beginning must not be continued", part.exists())
    }

    @Test
    fun `a file that is longer than promised is refused`() {
        served["executorch/model.pte"] = weights + 1
        assertThrows(BundleException::class.java) { BundleDownload(UrlHttp()).fetch(url, target) }
    }

    @Test
    fun `files that are there are not fetched again`() {
        cutAfter = 1_000_000
        served.remove("tokenizer.json")
        assertThrows(IOException::class.java) { BundleDownload(UrlHttp()).fetch(url, target) }
        cutAfter = Int.MAX_VALUE
        assertThrows(BundleException::class.java) { BundleDownload(UrlHttp()).fetch(url, target) } // 404
        served += files
        asked.clear()
        BundleDownload(UrlHttp()).fetch(url, target)
        assertEquals(listOf("manifest.json null", "tokenizer.json null"), asked)
    }

    @Test
    fun `a manifest that leads out of the folder is refused before anything is written`() {
        served["manifest.json"] = manifest(mapOf("../escaped" to weights)).toByteArray()
        assertThrows(BundleException::class.java) { BundleDownload(UrlHttp()).fetch(url, target) }
        assertEquals(emptyList<String>(), folder.root.list()!!.toList())
    }

    @Test
    fun `a manifest without end is refused before anything is written`() {
        served["manifest.json"] = manifest(files).toByteArray() + ByteArray(5 shl 20) { ' '.code.toByte() }
        val error = assertThrows(BundleException::class.java) { BundleDownload(UrlHttp()).fetch(url, target) }
        assertTrue(error.message, "4 MiB" in error.message!!)
        assertEquals(emptyList<String>(), folder.root.list()!!.toList())
    }

    @Test
    fun `a bundle that no disk holds is refused with numbers`() {
        served["manifest.json"] = manifest(files).replace("\"size\":2,", "\"size\":${1L shl 52},").toByteArray()
        val error = assertThrows(IOException::class.java) { BundleDownload(UrlHttp()).fetch(url, target) }
        assertTrue(error.message, " GB" in error.message!!)
    }

    private fun answer(exchange: HttpExchange) {
        val path = exchange.requestURI.path.removePrefix("/bundle/")
        val range = exchange.requestHeaders.getFirst("Range")
        asked += "$path $range"
        val bytes = served[path]
        try {
            if (bytes == null) exchange.sendResponseHeaders(404, -1) else send(exchange, bytes, range)
        } finally {
            exchange.close()
        }
    }

    private fun send(exchange: HttpExchange, bytes: ByteArray, range: String?) {
        val from = range?.takeIf {
            takesRanges
        }?.let { Regex("bytes=(\\d+)-").matchEntire(it)!!.groupValues[1].toInt() }
        val body = bytes.copyOfRange(from ?: 0, bytes.size)
        exchange.sendResponseHeaders(if (from == null) 200 else 206, body.size.toLong())
        exchange.responseBody.write(body, 0, minOf(body.size, cutAfter))
        exchange.responseBody.flush()
    }

    private fun manifest(files: Map<String, ByteArray>): String {
        val listed =
            files.entries.joinToString(",") { (path, bytes) ->
                val sha256 = MessageDigest.getInstance("SHA-256").digest(bytes).joinToString("") { "%02x".format(it) }
                """{"path":"$path","size":${bytes.size},"sha256":"$sha256"}"""
            }
        return MANIFEST.replace("FILES", listed)
    }
}

private const val MANIFEST = """{"format_version":2,"target":"android",
"source":{"name":"tiny","revision":null,"sha256":"","model_type":"gemma4_unified","licence":"apache-2.0"},
"recipe":{"name":"int4","description":"","bits_per_weight":4.5,"kv_bits":32},"artifacts":{},"files":[FILES],
"tokens":{"bos":2,"eos":[1],"pad":0,"suppress":[],"image":null,"audio":null,"video":null,"begin_image":null,
"end_image":null,"begin_audio":null,"end_audio":null},
"sampling":{"do_sample":true,"temperature":1.0,"top_k":64,"top_p":0.95},
"limits":{"context":64,"sliding_window":8,"image_soft_tokens":null,"audio_soft_tokens":null,"minimum_memory":0},
"tensors":[],"goldens":[],"tools":{}}"""
