package dev.gemma4edge.core.bench

import dev.gemma4edge.core.Vectors
import dev.gemma4edge.core.assertNear
import dev.gemma4edge.core.at
import dev.gemma4edge.core.bundle.strictJson
import dev.gemma4edge.core.chat.End
import dev.gemma4edge.core.chat.Generation
import dev.gemma4edge.core.double
import dev.gemma4edge.core.doubles
import dev.gemma4edge.core.int
import dev.gemma4edge.core.objects
import dev.gemma4edge.core.plain
import dev.gemma4edge.core.text
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.decodeFromJsonElement
import org.junit.Assert.assertEquals
import org.junit.Test

class BenchTest {
    private val vectors = Vectors.read("statistics")

    @Test
    fun `figures are the same`() {
        for (case in vectors.objects("figures")) {
            val found = Figure.of(case.at("given").doubles())
            assertNear(case.text("name"), case.double("median"), found.median)
            assertNear(case.text("name"), case.double("spread"), found.spread)
            assertEquals(case.text("name"), case.at("values").doubles(), found.values)
        }
    }

    @Test
    fun `rates are the same`() {
        for (case in vectors.objects("rates")) {
            val run = Generation(0, case.int("tokens") + 1, 0.1, case.double("seconds"), End.LIMIT)
            assertNear("$case", case.double("rate"), run.rate)
        }
    }

    @Test
    fun `what is shared has the keys that the report reads`() {
        val wanted = Vectors.read("bench").at("bench")
        val bench = strictJson.decodeFromJsonElement<Bench>(wanted)
        assertEquals(wanted.plain(), Json.parseToJsonElement(bench.toJson()).plain())
    }

    @Test
    fun `runs become figures`() {
        val runs =
            List(3) { Generation(position = 16 + 8, tokens = 9, firstToken = 0.5, decoding = 2.0, End.LIMIT) }
        val speed = textSpeed(runs)
        assertEquals(16, speed.length)
        assertEquals(32.0, speed.prefill.median, 0.0)
        assertEquals(4.0, speed.decode!!.median, 0.0)
    }

    @Test
    fun `memory is read from the kernel's text`() {
        val status = "VmHWM:\t 3000 kB\nRssAnon:\t 1000 kB\nRssFile:\t 500 kB\nRssShmem:\t20 kB\nThreads:\t12"
        assertEquals(ProcessMemory(1_024_000, 532_480, 3_072_000, 12), ProcessMemory.parse(status))
    }
}
