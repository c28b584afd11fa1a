package dev.gemma4edge.core.chat

import dev.gemma4edge.core.Vectors
import dev.gemma4edge.core.at
import dev.gemma4edge.core.bundle.Dialogue
import dev.gemma4edge.core.bundle.strictJson
import dev.gemma4edge.core.prompt.Segment
import dev.gemma4edge.core.reply.Kind
import dev.gemma4edge.core.reply.Piece
import dev.gemma4edge.core.reply.Reply
import kotlinx.serialization.json.decodeFromJsonElement
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** Prompts turn by turn; what engines read of them is SessionEngineTest's. */
class ConversationTest {
    private val dialogue = strictJson.decodeFromJsonElement<Dialogue>(Vectors.read("prompts").at("dialogue"))
    private val talk = Conversation(dialogue)

    @Test
    fun `a prompt is whole`() {
        val first = say("One")
        talk.answered(Reply(listOf(Piece(Kind.TEXT, "Yes"))))
        val second = say("Two")
        assertTrue(second, second.startsWith(first + "Yes") && "Two" in second)
    }

    @Test
    fun `a turn that was taken back is said again`() {
        val first = say("One")
        talk.answered(Reply(listOf(Piece(Kind.TEXT, "Yes"))))
        assertEquals(first, text(talk.say(talk.takeBack()!!)))
    }

    @Test
    fun `what cannot be said changes nothing`() {
        say("One")
        val before = talk.messages.toList()
        assertThrows(IllegalArgumentException::class.java) { say("What is <|image|>?") }
        assertEquals(before, talk.messages)
    }

    private fun say(said: String) = text(talk.say(talk.userTurn(said)))

    private fun text(segments: List<Segment>) = (segments.single() as Segment.Text).text
}
