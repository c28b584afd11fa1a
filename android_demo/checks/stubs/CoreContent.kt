// androidx.core
package androidx.core.content

import android.content.Context
import android.content.Intent
import android.net.Uri
import java.io.File

object ContextCompat {
    fun startForegroundService(context: Context, intent: Intent): Unit = TODO("$context $intent")
}

open class FileProvider {
    companion object {
        fun getUriForFile(context: Context, authority: String, file: File): Uri = TODO("$context $authority $file")
    }
}
