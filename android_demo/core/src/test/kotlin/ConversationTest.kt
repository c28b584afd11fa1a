package dev.gemma4edge.core.chat

import dev.gemma4edge.core.Vectors
import dev.gemma4edge.core.at
import dev.gemma4edge.core.bundle.Dialogue
import dev.gemma4edge.core.bundle.Sampling
import dev.gemma4edge.core.bundle.strictJson
import dev.gemma4edge.core.prompt.Segment
import dev.gemma4edge.core.reply.Kind
import dev.gemma4edge.core.reply.Piece
import dev.gemma4edge.core.reply.Reply
import kotlinx.serialization.json.decodeFromJsonElement
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** What an engine is given turn by turn. */
class ConversationTest {
    private val dialogue = strictJson.decodeFromJsonElement<Dialogue>(Vectors.read("prompts").at("dialogue"))
    private val talk = Conversation(dialogue)
    private val engine = Taking()

    @Test
    fun `a new turn is fed behind the old one`() {
        val first = turn("One", engine)
        val second = turn("Two", engine)
        assertTrue(first, first.startsWith(dialogue.begin))
        assertTrue(second, "Two" in second && "One" !in second)
        assertEquals(1, engine.resets)
    }

    @Test
    fun `all is read again behind a benchmark, which resets the engine`() {
        turn("One", engine)
        engine.reset()
        val second = turn("Two", engine)
        assertTrue(second, second.startsWith(dialogue.begin) && "One" in second && "Two" in second)
        assertEquals("one for the benchmark, one for each beginning", 3, engine.resets)
    }

    @Test
    fun `all is read again by an engine that was opened anew`() {
        turn("One", engine)
        val again = Taking()
        assertTrue("One" in turn("Two", again))
        assertEquals(1, again.resets)
    }

    @Test
    fun `a benchmark that runs between a turn's words and its turn on the engine is noticed`() {
        turn("One", engine)
        val feed = talk.say(talk.userTurn("Two"))
        engine.reset()
        assertTrue("One" in text(feed.on(engine)))
    }

    private fun turn(said: String, engine: Engine): String {
        val segments = talk.say(talk.userTurn(said)).on(engine)
        talk.answered(Reply(listOf(Piece(Kind.TEXT, "Yes"))), "Yes<turn|>", "<turn|>", engine.sequence)
        return text(segments)
    }

    private fun text(segments: List<Segment>) = segments.joinToString("") { (it as Segment.Text).text }
}

/** An engine that counts its sequences and writes nothing. */
private class Taking : Engine {
    override val name = "taking"
    override val suppresses = true
    override var sequence = Any()
    var resets = 0

    override fun reset() {
        sequence = Any()
        resets++
    }

    override fun generate(segments: List<Segment>, sampling: Sampling, limit: Int, onText: (String) -> Unit) =
        Generation(0, 0, "", 0.0, 0.0, End.MODEL)

    override fun stop() = Unit

    override fun close() = Unit
}
