package dev.gemma4edge.core.selftest

import dev.gemma4edge.core.Vectors
import dev.gemma4edge.core.assertNear
import dev.gemma4edge.core.at
import dev.gemma4edge.core.boolean
import dev.gemma4edge.core.bundle.BundleException
import dev.gemma4edge.core.bundle.Measure
import dev.gemma4edge.core.bundle.Modality
import dev.gemma4edge.core.bundle.Verification
import dev.gemma4edge.core.double
import dev.gemma4edge.core.doubles
import dev.gemma4edge.core.floats
import dev.gemma4edge.core.ints
import dev.gemma4edge.core.objects
import dev.gemma4edge.core.session.ModelInputs
import dev.gemma4edge.core.session.Session
import dev.gemma4edge.core.text
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlinx.serialization.json.jsonArray
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class SelfTestTest {
    @get:Rule
    val folder = TemporaryFolder()

    private val vectors = Vectors.read("goldens")
    private val golden = vectors.at("golden").let { golden ->
        Golden(
            GoldenFacts(
                "golden",
                Modality.TEXT,
                emptyList(),
                "",
                golden.at("tokens").ints(),
                golden.at("gaps").doubles()
            ),
            ModelInputs(intArrayOf(1)),
            golden.at("top_ids").jsonArray.map { it.ints().toIntArray() },
            golden.at("top_logits").jsonArray.map { it.floats() }
        )
    }

    @Test
    fun `devices are judged alike`() {
        for (case in vectors.objects("cases")) {
            val name = case.text("name")
            val device = Recorded(case.at("logits").jsonArray.map { it.floats() })
            val found = replay(golden, device, vectors.at("suppress").ints(), vectors.double("near_tie"))
            assertEquals("fed the golden's own tokens", golden.facts.tokens.dropLast(1), device.fed)
            assertEquals(name, case.at("near_ties").ints(), found.greedy.nearTies)
            assertEquals(name, case.at("errors").ints(), found.greedy.errors)
            case.at("kl").doubles().zip(found.kl) { wanted, got -> assertNear(name, wanted, got) }
            val judged = judge(listOf(found))
            assertNear(name, case.double("kl_mean"), judged.klMean)
            assertNear(name, case.double("rms"), found.rms)
            assertNear(name, case.double("largest"), found.largest)
            assertEquals(name, case.boolean("passed"), judged.passed)
        }
    }

    @Test
    fun `bounds are Python's`() {
        val bounds = vectors.at("bounds")
        assertEquals(listOf(bounds.double("golden_kl_mean"), bounds.double("golden_rms")), listOf(KL_MEAN, RMS))
        assertEquals(vectors.double("near_tie"), NEAR_TIE, 0.0)
    }

    @Test
    fun `bounds that torch needed are the bundle's`() {
        fun measure(engine: String, name: String, bound: Double, note: String) =
            Measure("goldens", engine, "text", name, 0.0, bound, false, true, note)

        val measures = listOf(
            measure("executorch", "golden_kl_mean", 0.02, "8 steps; in torch 0.013"),
            measure("executorch", "golden_rms", 0.09, "somebody set it"),
            measure("onnxruntime", "golden_greedy", 1.0, "in torch 1")
        )
        val verification = Verification(emptyList(), emptyMap(), measures = measures, passed = true)
        assertEquals(Bounds(0.0, 0.02, RMS), bounds(verification, "executorch", Modality.TEXT))
        assertEquals(Bounds(1.0, KL_MEAN, RMS), bounds(verification, "onnx", Modality.TEXT))
        assertEquals("control: another modality", Bounds(), bounds(verification, "onnx", Modality.IMAGE))
        assertEquals("control: never verified", Bounds(), bounds(null, "onnx", Modality.TEXT))
    }

    @Test
    fun `goldens of a modality are judged together`() {
        val short = GoldenResult("short", GreedyMatch(1, emptyList(), listOf(0)), listOf(0.012), 0.01, 0.1)
        val long = GoldenResult("long", GreedyMatch(3, emptyList(), emptyList()), listOf(0.0, 0.002, 0.002), 0.02, 0.1)
        val both = judge(listOf(short, long), Bounds(greedy = 1.0))
        assertEquals(1 to 0.02, both.greedy to both.rms)
        assertNear("each step counts, whichever golden it is of", 0.004, both.klMean)
        assertEquals("the mean may pass where one golden alone does not", emptyList<String>(), both.failing)
        assertEquals(listOf("mean KL"), named(judge(listOf(short), Bounds(greedy = 1.0))))
        assertEquals(listOf("relative rms"), named(judge(listOf(short, long), Bounds(greedy = 1.0, rms = 0.015))))
        val twice = judge(listOf(short, short, long, long, long), Bounds(greedy = 1.0))
        assertEquals("one is excused, not all", listOf("other tokens"), named(twice))
        assertEquals("NaN passes nowhere", false, judge(listOf(long.copy(rms = Double.NaN), long)).passed)
    }

    private fun named(judged: Judgement) = judged.failing.map { it.split(' ').take(2).joinToString(" ") }

    @Test
    fun `tensors are read as they were written`() {
        val file = folder.newFile().apply { writeBytes(safetensors()) }
        val tensors = readSafetensors(file)
        assertArrayEquals(floatArrayOf(1.5f, -2f), tensors.getValue("x").floats(), 0f)
        assertArrayEquals(longArrayOf(1L shl 40), tensors.getValue("ids").longs())
        assertArrayEquals(booleanArrayOf(true, false), tensors.getValue("mask").booleans())
    }

    @Test
    fun `damaged tensors are refused`() {
        val whole = safetensors()
        val flipped = whole.decodeToString(throwOnInvalidSequence = false).replace("[0,8]", "[0,9]").toByteArray()
        for (bytes in listOf(ByteArray(0), whole.copyOf(7), whole.copyOf(60), whole.copyOf(whole.size - 1), flipped)) {
            val file = folder.newFile().apply { writeBytes(bytes) }
            assertThrows("${bytes.size}", BundleException::class.java) { readSafetensors(file) }
        }
    }

    private fun safetensors(): ByteArray {
        val header = """{"x":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"ids":{"dtype":"I64","shape":[1],""" +
            """"data_offsets":[8,16]},"mask":{"dtype":"BOOL","shape":[2],"data_offsets":[16,18]}}"""
        val buffer = ByteBuffer.allocate(8 + header.length + 18).order(ByteOrder.LITTLE_ENDIAN)
        buffer.putLong(header.length.toLong()).put(header.toByteArray())
        return buffer.putFloat(1.5f).putFloat(-2f).putLong(1L shl 40).put(1).put(0).array()
    }
}

/** What a device once said, step by step. */
private class Recorded(private val logits: List<FloatArray>) : Session {
    override val name = "recorded"
    override var position = 0
    val fed = ArrayList<Int>()

    override fun reset() = fed.clear()

    override fun prefill(inputs: ModelInputs) = logits.first()

    override fun decode(token: Int): FloatArray = logits[fed.apply { add(token) }.size]

    override fun close() = Unit
}
