package dev.gemma4edge.core.text

import dev.gemma4edge.core.bundle.BundleException
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

private const val WHOLE = """{"added_tokens":[{"id":3,"content":"<eos>","special":true}],"normalizer":null,"model":
{"type":"BPE","byte_fallback":true,"unk_token":null,"vocab":{"a":0,"b":1,"ab":2},"merges":[["a","b"]]}}"""

/** What is no tokenizer is refused by what apps show; that whole ones agree with Python is PromptTest's. */
class TokenizerTest {
    @get:Rule
    val folder = TemporaryFolder()

    @Test
    fun `a damaged file is refused in one line`() {
        assertEquals(listOf(2, 3), read(WHOLE).encode("ab<eos>").toList())
        val damaged = listOf(
            WHOLE.dropLast(9),
            WHOLE.replace("\"ab\":2", "\"ba\":2"),
            WHOLE.replace("[\"a\",\"b\"]", "[\"a\"]"),
            WHOLE.replace("\"a\":0", "\"a\":-1"),
            WHOLE.replace("BPE", "Unigram"),
            WHOLE.replace("<eos>", "")
        )
        for (text in damaged) {
            val error = assertThrows(text, BundleException::class.java) { read(text) }
            assertEquals(error.message, 1, error.message!!.lines().size)
        }
    }

    private fun read(text: String) = Tokenizer.read(folder.newFile().apply { writeText(text) })
}
