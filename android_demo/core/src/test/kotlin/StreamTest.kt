package dev.gemma4edge.core.reply

import dev.gemma4edge.core.Vectors
import dev.gemma4edge.core.at
import dev.gemma4edge.core.ints
import dev.gemma4edge.core.objects
import dev.gemma4edge.core.orNull
import dev.gemma4edge.core.plain
import dev.gemma4edge.core.strings
import dev.gemma4edge.core.text
import dev.gemma4edge.core.text.Speller
import dev.gemma4edge.core.text.Tokenizer
import dev.gemma4edge.core.text.Utf8Stream
import dev.gemma4edge.core.unhex
import java.io.File
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonPrimitive
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** Replies as they come, against what Python makes of the same tokens, bytes and calls. */
class StreamTest {
    private val vectors = Vectors.read("streams")
    private val tokenizer = Tokenizer.read(File(Vectors.repository, vectors.text("tokenizer")))

    @Test
    fun `tokens become the same pieces`() {
        for (case in vectors.objects("tokens")) {
            val name = case.text("name")
            val speller = Speller(tokenizer)
            val reader = ReplyReader(tokenizer.specialMarks)
            var reply = Reply()
            val wanted = StringBuilder()
            case.at("ids").ints().zip(case.at("pieces").jsonArray).forEach { (token, pieces) ->
                reply += reader.add(speller.add(token))
                pieces.jsonArray.filter { it.jsonArray[0].jsonPrimitive.content == "text" }
                    .forEach { wanted.append(it.jsonArray[1].jsonPrimitive.content) }
                assertTrue("$name: ahead of the tokens", wanted.startsWith(reply.text))
            }
            reply += reader.end()
            assertEquals(name, case.text("text"), reply.text)
            assertEquals(name, case.text("thought"), reply.thoughts)
            assertEquals(name, case.at("calls").strings(), reply.calls)
        }
    }

    @Test
    fun `bytes become the same text`() {
        for (case in vectors.objects("bytes")) {
            val stream = Utf8Stream()
            val found = case.at("chunks").strings().map { stream.add(it.unhex()) }
            assertEquals(case.text("name"), case.at("pieces").strings(), found)
            assertEquals(case.text("name"), case.text("end"), stream.end())
        }
    }

    @Test
    fun `calls have the same arguments`() {
        for (case in vectors.objects("calls")) {
            val found = parseCall(case.text("written"))
            val wanted = case.orNull("parsed")
            assertEquals(case.text("written"), wanted?.text("name"), found?.name)
            assertEquals(
                case.text("written"),
                (wanted?.at("arguments") as JsonObject?)?.plain(),
                found?.arguments?.plain()
            )
        }
    }
}
