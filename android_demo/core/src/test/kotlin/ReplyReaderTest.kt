package dev.gemma4edge.core.reply

import kotlin.random.Random
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Test

class ReplyReaderTest {
    private val written =
        "<|channel>thought\nA < B.<channel|>Yes.<|tool_call>call:one{a:1}<tool_call|><|tool_call>call:two{}<tool_call|> <|"

    @Test
    fun `thoughts, calls and text are told apart`() {
        val reply = read(listOf(written))
        assertEquals("thought\nA < B.", reply.thoughts)
        assertEquals("Yes. <|", reply.text)
        assertEquals(listOf("call:one{a:1}", "call:two{}"), reply.calls)
    }

    @Test
    fun `marks may come in parts`() {
        val whole = read(listOf(written))
        val random = Random(3)
        repeat(300) {
            val cuts = List(random.nextInt(30)) { random.nextInt(written.length + 1) }.sorted()
            val parts = (listOf(0) + cuts).zip(cuts + written.length) { from, to -> written.substring(from, to) }
            val reply = read(parts)
            assertEquals(whole.text, reply.text)
            assertEquals(whole.thoughts, reply.thoughts)
            assertEquals(whole.calls, reply.calls)
        }
    }

    @Test
    fun `text is not held back longer than it must be`() {
        assertEquals("Yes", ReplyReader().add("Yes").joinToString("") { it.text })
    }

    @Test
    fun `arguments are parsed`() {
        val call = parseCall("""call:weather{city:<|"|>Rio, "RJ"{}<|"|>,days:[1,2],deep:{on:true,off:null}}""")!!
        assertEquals("weather", call.name)
        assertEquals(
            """{"city":"Rio, \"RJ\"{}","days":[1,2],"deep":{"on":true,"off":null}}""",
            call.arguments.toString()
        )
    }

    @Test
    fun `what is no call is none`() {
        val faults =
            listOf(
                "",
                "weather{}",
                "call:weather",
                "call:weather{city:<|\"|>Rio}",
                "call:weather{city:Rio}",
                "call:w{a:01}"
            )
        faults.forEach { assertNull(it, parseCall(it)) }
    }

    private fun read(parts: List<String>): Reply {
        val reader = ReplyReader()
        return Reply(parts.flatMap(reader::add) + reader.end())
    }
}
