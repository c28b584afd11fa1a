package dev.gemma4edge.core.bench

import java.io.File

/** Memory of this process in bytes, as Linux and so Android tells it in `/proc/self/status`. */
data class ProcessMemory(val anonymous: Long, val file: Long, val peak: Long, val threads: Int) {
    val total get() = anonymous + file

    companion object {
        fun now(): ProcessMemory = parse(File("/proc/self/status").readText())

        /** Of the text of proc_pid_status(5); what it does not tell is 0. */
        fun parse(status: String): ProcessMemory {
            val fields = status.lines().filter { ':' in it }.associate {
                it.substringBefore(':') to
                    it.substringAfter(':').trim()
            }

            fun number(name: String) = fields[name]?.substringBefore(' ')?.toLongOrNull() ?: 0

            return ProcessMemory(
                anonymous = number("RssAnon") * 1024,
                file = (number("RssFile") + number("RssShmem")) * 1024,
                peak = number("VmHWM") * 1024,
                threads = number("Threads").toInt()
            )
        }
    }
}
