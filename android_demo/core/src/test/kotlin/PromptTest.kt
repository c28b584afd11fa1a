package dev.gemma4edge.core.prompt

import dev.gemma4edge.core.Vectors
import dev.gemma4edge.core.at
import dev.gemma4edge.core.boolean
import dev.gemma4edge.core.bundle.Dialogue
import dev.gemma4edge.core.bundle.TurnRole
import dev.gemma4edge.core.bundle.strictJson
import dev.gemma4edge.core.ints
import dev.gemma4edge.core.media.FeatureExtractor
import dev.gemma4edge.core.media.ImageProcessor
import dev.gemma4edge.core.media.ImageSize
import dev.gemma4edge.core.media.Pixels
import dev.gemma4edge.core.media.ProcessorConfig
import dev.gemma4edge.core.media.Sound
import dev.gemma4edge.core.media.targetSize
import dev.gemma4edge.core.objects
import dev.gemma4edge.core.orNull
import dev.gemma4edge.core.session.Frames
import dev.gemma4edge.core.text
import dev.gemma4edge.core.text.Tokenizer
import dev.gemma4edge.core.text.cut
import java.io.File
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.decodeFromJsonElement
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

private const val VIDEO = """"type":"video""""
private val NO_IMAGE = Part.Image(Pixels(ImageSize(0, 0), FloatArray(0)))
private val NO_CLIP = Part.Clip(Frames(FloatArray(0), 1))

class PromptTest {
    private val vectors = Vectors.read("prompts")
    private val dialogue = strictJson.decodeFromJsonElement<Dialogue>(vectors.at("dialogue"))
    private val tokenizer = Tokenizer.read(File(Vectors.repository, vectors.text("tokenizer")))
    private val processor = ProcessorConfig(
        ImageProcessor(patchSize = 16, poolingKernelSize = 3, maxSoftTokens = 70),
        FeatureExtractor(samplingRate = 16000, featureSize = 640),
        audioSeqLength = 750
    )

    @Test
    fun `conversations become the prompts that the template renders`() {
        val conversations = vectors.objects("conversations")
        val taken = conversations.filterNot { VIDEO in it.at("messages").toString() } // which the app does not take
        assertTrue("${taken.size}", taken.size > 100)
        for (case in taken) {
            val messages = case.objects("messages").map(::message)
            val prompt = buildPrompt(dialogue, messages, case.objects("tools").map(::tool), case.boolean("think"))
            assertEquals(case.text("name"), case.text("prompt"), prompt.text)
        }
    }

    @Test
    fun `texts become the tokens that the tokenizer makes`() {
        for (case in vectors.objects("texts") + vectors.objects("conversations")) {
            val text = case.orNull("prompt") ?: case.at("text")
            assertEquals(case.at("ids").ints(), tokenizer.encode(text.jsonPrimitive.content).toList())
        }
    }

    @Test
    fun `images and clips are written out`() {
        for (case in vectors.objects("media")) {
            val sizes = case.at("sizes").jsonArray
            val isImage = case.text("kind") == "image"
            val media = sizes.map { if (isImage) image(it.ints()) else clip(it.jsonPrimitive.content.toInt()) }
            val segments = cutAtMedia(dialogue, case.text("prompt"), media)
            val inputs = modelInputs(dialogue, tokenizer, processor.imageProcessor.cell, segments)
            assertEquals(case.at("soft_tokens").ints(), inputs.images.map { it.count } + inputs.clips.map { it.count })
            assertArrayEquals("$sizes", case.at("ids").ints().toIntArray(), inputs.ids)
        }
    }

    @Test
    fun `a placeholder that somebody wrote is refused`() {
        assertThrows(IllegalArgumentException::class.java) { cutAtMedia(dialogue, "<|image|>", emptyList()) }
        assertThrows(IllegalArgumentException::class.java) { cutAtMedia(dialogue, "nothing", listOf(NO_IMAGE)) }
    }

    @Test
    fun `text is cut between words, and its tokens stay`() {
        val texts = vectors.objects("conversations").map { it.text("prompt") } + "語".repeat(300) + "a".repeat(300)
        for (text in texts.distinct()) {
            for (longest in listOf(16, 64)) {
                val parts = tokenizer.cut(text, longest)
                assertEquals(text, parts.joinToString(""))
                val ids = parts.map { tokenizer.encode(it).toList() }
                assertTrue("${ids.maxOf { it.size }}", ids.all { it.size <= longest })
                if (' ' in text) assertEquals(tokenizer.encode(text).toList(), ids.flatten())
            }
        }
    }

    private fun image(size: List<Int>): Part.Image {
        val target = targetSize(ImageSize(size[0], size[1]), processor.imageProcessor)
        return Part.Image(Pixels(target, FloatArray(3 * target.width * target.height)))
    }

    private fun clip(samples: Int) = Part.Clip(Sound(16000, FloatArray(samples)).frames(processor))

    private fun message(message: JsonObject): Message = when (val role = message.text("role")) {
        "tool" -> ToolResponse(message.orNull("name")?.jsonPrimitive?.content ?: "unknown", message.at("content"))

        "system", "developer" -> Turn(TurnRole.SYSTEM, parts(message.orNull("content")))

        "user" -> Turn(TurnRole.USER, parts(message.orNull("content")))

        else -> Turn(
            TurnRole.MODEL.also {
                require(role in setOf("assistant", "model"))
            },
            parts(message.orNull("content")),
            calls(message)
        )
    }

    private fun parts(content: JsonElement?): List<Part> = when (content) {
        null -> emptyList()

        is JsonPrimitive -> listOf(Part.Text(content.content))

        else -> (content as JsonArray).map {
            when (it.text("type")) {
                "text" -> Part.Text(it.text("text"))
                "image" -> NO_IMAGE
                else -> NO_CLIP
            }
        }
    }

    private fun calls(message: JsonObject) = message.orNull("tool_calls")?.jsonArray.orEmpty().map {
        it.at("function")
    }.map { WrittenCall(it.text("name"), it.at("arguments")) }

    private fun tool(tool: JsonObject): Tool {
        val function = (tool["function"] ?: tool).jsonObject
        return Tool(
            function.text("name"),
            function["description"]?.jsonPrimitive?.content.orEmpty(),
            function["parameters"]?.jsonObject ?: JsonObject(emptyMap())
        )
    }
}
