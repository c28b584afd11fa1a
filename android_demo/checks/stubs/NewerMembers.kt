// Members that API 23 lacks, as extensions in the package that calls them.
package dev.gemma4edge.app.newer

import android.app.ActivityManager
import android.app.ApplicationExitInfo

fun ActivityManager.getHistoricalProcessExitReasons(
    packageName: String?,
    pid: Int,
    maxNum: Int
): List<ApplicationExitInfo> = TODO("$packageName $pid $maxNum")
