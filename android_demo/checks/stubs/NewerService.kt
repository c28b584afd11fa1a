// Of Service, API 23 lacks onTimeout; the whole class is here, as it is overridden.
package android.app

import android.content.ContextWrapper
import android.content.Intent
import android.os.IBinder

@Suppress("UNUSED_PARAMETER")
abstract class Service : ContextWrapper(null) {
    abstract fun onBind(intent: Intent?): IBinder?

    open fun onStartCommand(intent: Intent?, flags: Int, startId: Int): Int = TODO()

    open fun onDestroy(): Unit = TODO()

    open fun onTimeout(startId: Int, fgsType: Int): Unit = TODO()

    fun stopSelf(): Unit = TODO()

    companion object {
        const val START_NOT_STICKY = 2
    }
}
