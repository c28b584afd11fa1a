package dev.gemma4edge.core.device

import dev.gemma4edge.core.Vectors
import dev.gemma4edge.core.at
import dev.gemma4edge.core.long
import dev.gemma4edge.core.objects
import dev.gemma4edge.core.strings
import dev.gemma4edge.core.text
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

class DeviceFitTest {
    private val vectors = Vectors.read("devices")

    @Test
    fun `verdicts and numbers are the same`() {
        for (case in vectors.objects("cases")) {
            val report = checkFit(case.long("needed"), DeviceMemory(case.long("total"), case.long("available")))
            assertEquals("$case", case.text("fit"), report.fit.name.lowercase().replace('_', ' '))
            val told = report.fit == Fit.FITS || case.at("numbers").strings().all { it in report.warning }
            assertTrue(report.warning, told)
            assertEquals(report.fit == Fit.FITS, report.warning.isEmpty())
        }
    }

    @Test
    fun `sizes are told alike`() {
        for (case in vectors.objects("sizes")) assertEquals(case.text("text"), gigabytes(case.long("bytes")))
    }
}
