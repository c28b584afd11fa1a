package dev.gemma4edge.core.device

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
            val need = "This model needs ${gigabytes(needed)}."
            val have = "The device has ${gigabytes(memory.total)}, ${gigabytes(memory.available)} of it free."
            return when (fit) {
                Fit.FITS -> ""
                Fit.TIGHT -> "$need $have Close other apps first, or the system may end this one."
                Fit.TOO_LARGE -> "$need $have Loading it will very likely end this app: use a smaller one."
            }
        }
}

/** Compares the manifest's `minimum_memory`, weights and cache at the full context, with what the device has. */
fun checkFit(needed: Long, memory: DeviceMemory): FitReport {
    val fit = when {
        needed > memory.total -> Fit.TOO_LARGE
        needed > memory.available -> Fit.TIGHT
        else -> Fit.FITS
    }
    return FitReport(fit, needed, memory)
}

/** Bytes as `7.3 GB`, in decimal units, halves upwards. */
fun gigabytes(count: Long): String {
    val tenths = (count + 50_000_000) / 100_000_000
    return "${tenths / 10}.${tenths % 10} GB"
}
