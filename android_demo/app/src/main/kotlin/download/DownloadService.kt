package dev.gemma4edge.app.download

import android.app.Service
import android.content.Context
import android.content.Intent
import android.os.IBinder
import androidx.core.content.ContextCompat
import dev.gemma4edge.app.newer.showProgress
import dev.gemma4edge.core.download.BundleDownload
import dev.gemma4edge.core.download.DownloadProgress
import dev.gemma4edge.core.download.Rate
import dev.gemma4edge.core.download.UrlHttp
import java.io.File
import java.io.IOException
import java.io.InterruptedIOException
import java.net.SocketTimeoutException
import java.util.concurrent.Executors

private const val TOLD_EVERY = 500L // milliseconds

/** Downloads a bundle in the foreground, so that the system does not end it; what is interrupted goes on later. */
class DownloadService : Service() {
    private val worker = Executors.newSingleThreadExecutor()

    @Volatile
    private var wanted = false

    override fun onBind(intent: Intent?): IBinder? = null

    override fun onStartCommand(intent: Intent?, flags: Int, startId: Int): Int {
        val url = intent?.getStringExtra(URL)
        val target = intent?.getStringExtra(TARGET)
        if (url == null || target == null) { // a pause
            wanted = false
        } else if (!wanted) {
            wanted = true
            showProgress(this, url, 0f)
            Downloads.tell(DownloadState(url))
            worker.execute { fetch(url, File(target)) }
        }
        return START_NOT_STICKY
    }

    /** Android 15 lets such services run for six hours of a day, and ends an app whose service does not stop then. */
    override fun onTimeout(startId: Int, fgsType: Int) {
        wanted = false
        val state = Downloads.state.value
        Downloads.tell(state?.copy(running = false, fault = "Android stops downloads after six hours: go on with it."))
        stopSelf()
    }

    override fun onDestroy() {
        wanted = false
        worker.shutdown()
    }

    private fun fetch(url: String, target: File) {
        val fault = try {
            BundleDownload(UrlHttp(), { wanted }, Teller(url)::invoke).fetch(url, target)
            null
        } catch (_: SocketTimeoutException) { // an InterruptedIOException too, but nobody's wish
            "the server stopped answering: go on with the download, it continues there"
        } catch (_: InterruptedIOException) {
            ""
        } catch (error: IOException) {
            error.message ?: "the download failed"
        }
        val state = Downloads.state.value ?: DownloadState(url)
        Downloads.tell(if (fault == null) null else state.copy(running = false, fault = fault.ifEmpty { null }))
        wanted = false
        stopSelf()
    }

    /** Not more often than one can read. */
    private inner class Teller(private val url: String) {
        private val rate = Rate()
        private var last = 0L

        operator fun invoke(progress: DownloadProgress) {
            val now = System.currentTimeMillis()
            if (now - last < TOLD_EVERY) return
            last = now
            val remaining = rate.tell(progress.done, progress.total)
            Downloads.tell(DownloadState(url, progress.path, progress.done, progress.total, remaining))
            showProgress(this@DownloadService, remaining, progress.done.toFloat() / progress.total)
        }
    }

    companion object {
        private const val URL = "url"
        private const val TARGET = "target"

        fun start(context: Context, url: String, target: File) {
            val intent = Intent(context, DownloadService::class.java).putExtra(URL, url).putExtra(TARGET, target.path)
            ContextCompat.startForegroundService(context, intent)
        }

        fun pause(context: Context) {
            context.startService(Intent(context, DownloadService::class.java))
        }
    }
}
