package android.app

class ApplicationExitInfo private constructor() {
    val reason: Int get() = TODO()
    val status: Int get() = TODO()
    val rss: Long get() = TODO()
    val timestamp: Long get() = TODO()

    companion object {
        const val REASON_SIGNALED = 2
        const val REASON_LOW_MEMORY = 3
    }
}
