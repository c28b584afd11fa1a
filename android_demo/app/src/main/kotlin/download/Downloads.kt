package dev.gemma4edge.app.download

import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow

/** The download that the service runs, for the screen to look at. */
data class DownloadState(
    val url: String,
    val path: String = "",
    val done: Long = 0,
    val total: Long = 0,
    val remaining: String = "",
    val running: Boolean = true,
    val fault: String? = null
)

/** Shared by the service and the screen, which live apart. */
object Downloads {
    private val mutable = MutableStateFlow<DownloadState?>(null)
    val state: StateFlow<DownloadState?> = mutable

    internal fun tell(state: DownloadState?) {
        mutable.value = state
    }
}
