package dev.gemma4edge.app.device

import android.app.ActivityManager
import android.content.Context
import android.os.Build
import dev.gemma4edge.core.bench.Machine
import dev.gemma4edge.core.device.DeviceMemory

/** What the system tells of itself. */
class Device(private val context: Context) {
    fun memory(): DeviceMemory {
        val info = ActivityManager.MemoryInfo()
        (context.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager).getMemoryInfo(info)
        return DeviceMemory(info.totalMem, info.availMem)
    }

    fun machine(): Machine {
        val cores = Runtime.getRuntime().availableProcessors()
        return Machine(
            name = "${Build.MANUFACTURER} ${Build.MODEL} ${Build.HARDWARE}",
            system = "Android ${Build.VERSION.RELEASE}, ${System.getProperty("os.version")}",
            cores = cores,
            threads = cores,
            memory = memory().total,
            load = null, // Android counts threads that sleep in drivers too: its load says nothing
            packages = emptyMap()
        )
    }
}
