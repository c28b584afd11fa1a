package dev.gemma4edge.core.session

import dev.gemma4edge.core.Vectors
import dev.gemma4edge.core.assertNear
import dev.gemma4edge.core.at
import dev.gemma4edge.core.bundle.Sampling
import dev.gemma4edge.core.bundle.strictJson
import dev.gemma4edge.core.doubles
import dev.gemma4edge.core.floats
import dev.gemma4edge.core.int
import dev.gemma4edge.core.ints
import dev.gemma4edge.core.objects
import dev.gemma4edge.core.text
import kotlin.random.Random
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.decodeFromJsonElement
import kotlinx.serialization.json.double
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

class SamplerTest {
    private val cases = Vectors.read("sampling").objects("cases")

    @Test
    fun `greedy tokens are the same`() {
        val greedy = cases.filter { "token" in it }
        assertTrue(greedy.isNotEmpty())
        for (case in greedy) {
            val found = Sampler(sampling(case), case.at("suppress").ints())(case.at("logits").floats())
            assertEquals(case.text("name"), case.int("token"), found)
        }
    }

    @Test
    fun `chances and draws are the same`() {
        for (case in cases.filter { "chances" in it }) {
            val name = case.text("name")
            val found = probabilities(suppress(case.at("logits").floats(), case.at("suppress").ints()), sampling(case))
            val wanted = case.at("chances").jsonObject.entries.associate {
                it.key.toInt() to
                    it.value.jsonPrimitive.double
            }
            assertEquals(name, wanted.keys.sorted(), found.tokens)
            found.tokens.zip(found.values) { token, chance -> assertNear(name, wanted.getValue(token), chance, 1e-6) }
            for (pair in case.at("draws").jsonArray) {
                val (number, token) = pair.doubles()
                assertEquals("$name: $number", token.toInt(), draw(found, number))
            }
        }
    }

    @Test
    fun `tokens come as often as their chances say`() {
        val case = cases.first { "chances" in it }
        val suppressed = case.at("suppress").ints()
        val logits = case.at("logits").floats()
        val sample = Sampler(sampling(case), suppressed, Random(7))
        val found = List(20_000) { sample(logits) }.groupingBy { it }.eachCount()
        val wanted = probabilities(suppress(logits, suppressed), sampling(case))
        wanted.tokens.zip(wanted.values) { token, chance -> assertEquals(chance, (found[token] ?: 0) / 20_000.0, 0.02) }
    }

    private fun sampling(case: JsonObject) = strictJson.decodeFromJsonElement<Sampling>(case.at("sampling"))
}
