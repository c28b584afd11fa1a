package dev.gemma4edge.app.newer

import android.app.ActivityManager
import android.app.ApplicationExitInfo
import android.content.Context
import android.os.Build
import dev.gemma4edge.core.device.gigabytes

/** Why the app ended the last time, where the system ended it for its memory; null otherwise, and before Android 11. */
fun lastExit(context: Context): String? {
    if (Build.VERSION.SDK_INT < 30) return null
    val manager = context.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager
    val last = manager.getHistoricalProcessExitReasons(context.packageName, 0, 1).firstOrNull() ?: return null
    if (isTold(context, last.timestamp) || !isForMemory(last)) return null
    return "Android ended the app the last time, when it held ${gigabytes(
        last.rss * 1024
    )}: the model needs more memory " +
        "than was free. Close other apps, or use a smaller model or context."
}

/** Some devices report a kill for memory as a signal. */
private fun isForMemory(last: ApplicationExitInfo): Boolean = when (last.reason) {
    ApplicationExitInfo.REASON_LOW_MEMORY -> true
    ApplicationExitInfo.REASON_SIGNALED -> last.status == SIGKILL
    else -> false
}

/** Each end is explained once. */
private fun isTold(context: Context, timestamp: Long): Boolean {
    val kept = context.getSharedPreferences("exits", Context.MODE_PRIVATE)
    val told = kept.getLong("last", 0) >= timestamp
    kept.edit().putLong("last", timestamp).apply()
    return told
}

private const val SIGKILL = 9
