package dev.gemma4edge.core.download

import dev.gemma4edge.core.device.gigabytes
import kotlin.time.ComparableTimeMark
import kotlin.time.Duration.Companion.seconds
import kotlin.time.TimeSource

/** Speed of a transfer since it began, and what is left at that speed; what was there before does not count. */
class Rate(private val clock: TimeSource.WithComparableMarks = TimeSource.Monotonic) {
    private var begun: ComparableTimeMark? = null
    private var there = 0L

    /** In words: `1.2 GB of 6.7 GB, 12 MB/s, 8m left`. */
    fun tell(done: Long, total: Long): String {
        val start = begun ?: clock.markNow().also {
            begun = it
            there = done
        }
        val passed = start.elapsedNow().inWholeMilliseconds / 1000.0
        val share = "${gigabytes(done)} of ${gigabytes(total)}"
        if (passed < 1 || done <= there) return share
        val speed = (done - there) / passed
        return "$share, ${(speed / 1e6).toLong()} MB/s, ${((total - done) / speed).toLong().seconds} left"
    }
}
