package androidx.core.app

import android.app.Notification
import android.app.PendingIntent
import android.app.Service
import android.content.Context

class NotificationChannelCompat private constructor() {
    @Suppress("UNUSED_PARAMETER")
    class Builder(id: String, importance: Int) {
        fun setName(name: CharSequence?): Builder = TODO()

        fun build(): NotificationChannelCompat = TODO()
    }
}

class NotificationCompat private constructor() {
    @Suppress("UNUSED_PARAMETER")
    class Builder(context: Context, channel: String) {
        fun setSmallIcon(icon: Int): Builder = TODO()

        fun setContentTitle(title: CharSequence?): Builder = TODO()

        fun setContentText(text: CharSequence?): Builder = TODO()

        fun setProgress(max: Int, progress: Int, indeterminate: Boolean): Builder = TODO()

        fun setOngoing(ongoing: Boolean): Builder = TODO()

        fun setContentIntent(intent: PendingIntent?): Builder = TODO()

        fun build(): Notification = TODO()
    }
}

class NotificationManagerCompat private constructor() {
    fun createNotificationChannel(channel: NotificationChannelCompat): Unit = TODO("$channel")

    companion object {
        const val IMPORTANCE_LOW = 2

        fun from(context: Context): NotificationManagerCompat = TODO("$context")
    }
}

object ServiceCompat {
    fun startForeground(service: Service, id: Int, notification: Notification, type: Int): Unit =
        TODO("$service $id $notification $type")
}
