package dev.gemma4edge.core.bundle

import dev.gemma4edge.core.Vectors
import dev.gemma4edge.core.at
import dev.gemma4edge.core.objects
import dev.gemma4edge.core.plain
import dev.gemma4edge.core.text
import java.io.File
import java.nio.file.Files
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.jsonArray
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class ManifestTest {
    @get:Rule
    val folder = TemporaryFolder()

    private val vectors = Vectors.read("manifests")

    @Test
    fun `good ones are read, key by key`() {
        val writer = Json(strictJson) { encodeDefaults = true }
        for (case in vectors.objects("good")) {
            val again = writer.encodeToJsonElement(Manifest.serializer(), parseManifest(case.text("text")))
            assertHolds(case.text("name"), Json.parseToJsonElement(case.text("text")), again)
        }
    }

    /** All that was given is there again. */
    private fun assertHolds(path: String, given: JsonElement, again: JsonElement) {
        when (given) {
            is JsonObject -> given.forEach { (key, value) -> assertHolds("$path.$key", value, again.at(key)) }
            is JsonArray -> given.zip(again.jsonArray).forEach { (value, other) -> assertHolds(path, value, other) }
            else -> assertEquals(path, given.plain(), again.plain())
        }
    }

    @Test
    fun `bad ones are refused in one line`() {
        for (case in vectors.objects("bad")) {
            val name = case.text("name")
            val error = assertThrows(name, BundleException::class.java) { parseManifest(case.text("text")) }
            assertEquals("$name: ${error.message}", 1, error.message!!.lines().size)
            if (name.startsWith("newer version")) assertTrue("$name: ${error.message}", "newer" in error.message!!)
        }
    }

    @Test
    fun `the version is the one that Python writes`() {
        assertEquals(FORMAT_VERSION.toString(), vectors.at("format_version").toString())
    }

    @Test
    fun `a link out of the bundle is refused`() {
        val outside = folder.newFile("secret")
        val bundle = folder.newFolder("bundle")
        Files.createSymbolicLink(File(bundle, "chat_template.jinja").toPath(), outside.toPath())
        File(bundle, MANIFEST_FILE).writeText(vectors.objects("good").first().text("text"))
        assertThrows(BundleException::class.java) { readManifest(bundle) }
        File(bundle, "chat_template.jinja").delete()
        readManifest(bundle)
    }

    @Test
    fun `a folder without a manifest is none`() {
        assertThrows(BundleException::class.java) { readManifest(folder.root) }
    }

    @Test
    fun `files are compared by size and sha256`() {
        val bundle = folder.newFolder("bundle")
        val right = File(bundle, "right").apply { writeText("hello") }
        File(bundle, "short").writeText("hell")
        File(bundle, "other").writeText("hellO")
        val files = listOf("right", "short", "other", "missing").map { BundleFile(it, 5, sha256(right)) }
        assertEquals(listOf("short", "other", "missing"), verifyFiles(bundle, files).map { it.path })
        assertEquals(listOf("short", "missing"), unfinishedFiles(bundle, files).map { it.path })
    }
}
