package dev.gemma4edge.core.chat

import dev.gemma4edge.core.Vectors
import dev.gemma4edge.core.at
import dev.gemma4edge.core.bundle.Dialogue
import dev.gemma4edge.core.bundle.MediaKind
import dev.gemma4edge.core.bundle.Sampling
import dev.gemma4edge.core.bundle.parseManifest
import dev.gemma4edge.core.bundle.strictJson
import dev.gemma4edge.core.media.ImageSize
import dev.gemma4edge.core.media.Pixels
import dev.gemma4edge.core.objects
import dev.gemma4edge.core.prompt.Part
import dev.gemma4edge.core.prompt.Segment
import dev.gemma4edge.core.prompt.Turn
import dev.gemma4edge.core.reply.Reply
import dev.gemma4edge.core.reply.ReplyReader
import dev.gemma4edge.core.session.ModelInputs
import dev.gemma4edge.core.session.Session
import dev.gemma4edge.core.text
import dev.gemma4edge.core.text.Tokenizer
import java.io.File
import kotlinx.serialization.json.decodeFromJsonElement
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertThrows
import org.junit.Test

private const val CONTEXT = 400
private const val CELL = 48
private const val THOUGHT = "<|channel>thought\n<channel|>"
private const val ANSWER = "The old man."
private val GREEDY = Sampling(doSample = false, temperature = 0.0, topK = 0, topP = 1.0)

/** What a session is given turn by turn: it must come to hold what it would if the last prompt were its first. */
class SessionEngineTest {
    private val vectors = Vectors.read("prompts")
    private val tokenizer = Tokenizer.read(File(Vectors.repository, vectors.text("tokenizer")))
    private val manifest = parseManifest(Vectors.read("manifests").objects("good").first().text("text"))
    private val plain = strictJson.decodeFromJsonElement<Dialogue>(vectors.at("dialogue"))

    /** As Gemma 4's published template: an empty thought ends a prompt without thinking, and is in no later one. */
    private val published = plain.copy(generation = plain.generation + THOUGHT)
    private val usual = tokenizer.encode(ANSWER).asList()
    private val soft = tokenizer.id(plain.media.getValue(MediaKind.IMAGE).soft)

    @Test
    fun `turns that the template writes anew are taken back to where both agree`() {
        val chat = Chat(published)
        var before = chat.say("Who came down to the sea?")
        for (text in listOf("And then?", "Why?")) {
            val prompt = chat.say(text)
            val agreed = tokenizer.encode(text(before).removeSuffix(THOUGHT)).size
            assertEquals(fresh(prompt).cache, chat.session.cache)
            assertEquals(agreed, chat.session.wentBack.last())
            assertEquals(fresh(prompt).read.single() - agreed, chat.session.read.last())
            before = prompt
        }
        assertEquals(0, chat.session.resets)
    }

    @Test
    fun `a session that cannot go back reads everything`() {
        val chat = Chat(published, canGoBack = false)
        chat.say("Who came down to the sea?")
        val prompt = chat.say("And then?")
        assertEquals(fresh(prompt).cache, chat.session.cache)
        assertEquals(fresh(prompt).read.single(), chat.session.read.last())
        assertEquals(1, chat.session.resets)
    }

    @Test
    fun `control, a template that writes turns as they were read needs no going back`() {
        for (answer in listOf(usual, spelled(ANSWER))) {
            val chat = Chat(plain, canGoBack = false)
            chat.say("Who came down to the sea?", answer)
            val before = chat.session.cache.toList()
            val prompt = chat.say("And then?")
            assertEquals("the model's own tokens stay", before, chat.session.cache.take(before.size))
            assertEquals(answer != spelled(ANSWER), fresh(prompt).cache == chat.session.cache)
            assertEquals(0, chat.session.resets)
        }
    }

    @Test
    fun `tokens that the tokenizer would not have made are read again where turns are written anew`() {
        val chat = Chat(published)
        chat.say("Who came down to the sea?", spelled(ANSWER))
        assertNotEquals("control", spelled(ANSWER), usual)
        assertEquals(fresh(chat.say("And then?")).cache, chat.session.cache)
    }

    @Test
    fun `images are read once, and what differs behind the last is read again`() {
        val chat = Chat(published)
        chat.say("What is shown?", image = image(0.1f))
        assertEquals(fresh(chat.say("And where?")).cache, chat.session.cache)
        assertEquals(fresh(chat.say("And here?", image = image(0.2f))).cache, chat.session.cache)
        assertEquals(fresh(chat.say("Why?")).cache, chat.session.cache)
        assertEquals(3, chat.session.wentBack.size)
        assertEquals(listOf(0.1f, 0.2f), chat.session.images)
        assertEquals(0, chat.session.resets)
    }

    @Test
    fun `another image with the same words is another prompt`() {
        val chat = Chat(published)
        chat.say("What is shown?", image = image(0.1f))
        chat.conversation = Conversation(published)
        assertEquals(fresh(chat.say("What is shown?", image = image(0.2f))).cache, chat.session.cache)
        assertEquals(1, chat.session.resets)
    }

    @Test
    fun `a turn that is said again reads its last token alone`() {
        val chat = Chat(published)
        chat.say("What is shown?", image = image(0.1f))
        val prompt = chat.say(chat.conversation.takeBack()!!)
        assertEquals(fresh(prompt).cache, chat.session.cache)
        assertEquals(1, chat.session.read.last())
    }

    @Test
    fun `what leaves no room loses nothing`() {
        val chat = Chat(published)
        chat.say("Who came down to the sea?")
        val before = chat.session.cache.toList()
        assertThrows(EngineException::class.java) { chat.say("word ".repeat(CONTEXT)) }
        assertEquals(before, chat.session.cache)
        chat.conversation.takeBack()
        assertEquals(fresh(chat.say("And then?")).cache, chat.session.cache)
        assertEquals(0, chat.session.resets)
    }

    @Test
    fun `all is read again behind a benchmark, which resets the engine`() {
        val chat = Chat(plain)
        chat.say("Who came down to the sea?")
        chat.engine.reset()
        val prompt = chat.say("And then?")
        assertEquals(fresh(prompt).cache, chat.session.cache)
        assertEquals(fresh(prompt).read.single(), chat.session.read.last())
    }

    @Test
    fun `all is read again behind a turn in which the engine failed`() {
        val chat = Chat(plain)
        chat.say("Who came down to the sea?")
        chat.session.fails = true
        assertThrows(EngineException::class.java) { chat.say("And then?") }
        chat.session.fails = false
        chat.conversation.takeBack()
        assertEquals(fresh(chat.say("And then?")).cache, chat.session.cache)
        assertEquals(1, chat.session.resets)
    }

    @Test
    fun `an answer that is stopped stays, and the next turn goes on`() {
        val chat = Chat(plain, canGoBack = false)
        chat.say("Who came down to the sea?", stopAfter = 2)
        val prompt = chat.say("And then?")
        val kept = usual.take(2).joinToString("", transform = tokenizer::spell)
        assertEquals(true, plain.generation + kept + "<turn|>" in text(prompt))
        assertEquals(fresh(prompt).cache, chat.session.cache)
        assertEquals(0, chat.session.resets)
    }

    /** A conversation on an engine. */
    private inner class Chat(dialogue: Dialogue, canGoBack: Boolean = true) {
        val session = Remembering(tokenizer.size, soft, canGoBack)
        val engine = open(session, dialogue)
        var conversation = Conversation(dialogue)

        /** Returns the prompt. */
        fun say(text: String, answer: List<Int> = usual, image: Part.Image? = null, stopAfter: Int = 0): List<Segment> =
            say(conversation.userTurn(text, listOfNotNull(image)), answer, stopAfter)

        fun say(turn: Turn, answer: List<Int> = usual, stopAfter: Int = 0): List<Segment> {
            val prompt = conversation.say(turn)
            val reader = ReplyReader(tokenizer.specialMarks)
            var reply = Reply()
            var told = 0
            session.script = answer + manifest.tokens.eos
            engine.generate(prompt, GREEDY, CONTEXT) {
                reply += reader.add(it)
                if (++told == stopAfter) engine.stop()
            }
            conversation.answered(reply + reader.end())
            return prompt
        }
    }

    private fun open(session: Session, dialogue: Dialogue) = SessionEngine(
        session,
        manifest.copy(dialogue = dialogue, limits = manifest.limits.copy(context = CONTEXT)),
        tokenizer,
        CELL
    )

    /** A session that has read [prompt] from the start, and answered. */
    private fun fresh(prompt: List<Segment>): Remembering {
        val session = Remembering(tokenizer.size, soft)
        session.script = usual + manifest.tokens.eos
        open(session, plain).generate(prompt, GREEDY, CONTEXT) {}
        return session
    }

    private fun image(colour: Float) = Part.Image(Pixels(ImageSize(CELL, CELL), FloatArray(3 * CELL * CELL) { colour }))

    private fun spelled(text: String) = text.flatMap { tokenizer.encode("$it").asList() }

    private fun text(prompt: List<Segment>) = (prompt.single() as Segment.Text).text
}

/** A session that keeps what it is given, images as their colours, and writes [script] behind each prompt. */
private class Remembering(private val vocabulary: Int, private val soft: Int, private val canGoBack: Boolean = true) :
    Session {
    override val name = "remembering"
    override val position get() = cache.size
    val cache = ArrayList<Number>()
    val images = ArrayList<Float>()
    val read = ArrayList<Int>() // positions of each prefill
    val wentBack = ArrayList<Int>()
    var resets = 0
    var fails = false
    var script = emptyList<Int>()
    private var written = 0

    override fun reset() {
        cache.clear()
        resets++
    }

    override fun rewind(position: Int): Boolean {
        if (!canGoBack) return false
        wentBack += position
        cache.subList(position, cache.size).clear()
        return true
    }

    override fun prefill(inputs: ModelInputs): FloatArray {
        val colours = inputs.images.map { it.values.first() }
        val rest = colours.iterator()
        inputs.ids.forEach { cache += if (it == soft) rest.next() else it }
        images += colours
        read += inputs.ids.size
        written = 0
        return next()
    }

    override fun decode(token: Int): FloatArray {
        if (fails) throw EngineException("it stopped")
        cache += token
        return next()
    }

    override fun close() = Unit

    private fun next() = FloatArray(vocabulary).also { it[script[written++]] = 1f }
}
