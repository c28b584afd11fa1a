package dev.gemma4edge.core.device

import dev.gemma4edge.core.bundle.Manifest

/** Bytes, as the system tells them. */
data class DeviceMemory(val total: Long, val available: Long)

/** Whether a bundle fits a device. */
enum class Fit {
    FITS,

    /** Other apps must give up memory first; the system may end this one instead. */
    TIGHT,

    /** More than the device has. */
    TOO_LARGE
}

/** A verdict with its numbers, in bytes. */
data class FitReport(val fit: Fit, val needed: Long, val memory: DeviceMemory) {
    /** One line for the user; empty where there is nothing to warn of. */
    val warning: String
        get() {
            val need = "This model needs ${gib(needed)}."
            val have = "The device has ${gib(memory.total)}, ${gib(memory.available)} of it free."
            return when (fit) {
                Fit.FITS -> ""
                Fit.TIGHT -> "$need $have Close other apps first, or the system may end this one."
                Fit.TOO_LARGE -> "$need $have Loading it will very likely end this app: use a smaller one."
            }
        }
}

/** Compares the manifest's `minimum_memory`, weights and cache at the full context, with what the device has. */
fun checkFit(manifest: Manifest, memory: DeviceMemory): FitReport {
    val needed = manifest.limits.minimumMemory
    val fit =
        when {
            needed > memory.total -> Fit.TOO_LARGE
            needed > memory.available -> Fit.TIGHT
            else -> Fit.FITS
        }
    return FitReport(fit, needed, memory)
}

/** Bytes as GiB, or as MiB below one. */
fun gib(bytes: Long): String =
    if (bytes < 1L shl 30) "%.0f MiB".format(bytes / 1048576.0) else "%.1f GiB".format(bytes / 1073741824.0)
