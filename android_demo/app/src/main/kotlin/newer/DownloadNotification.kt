package dev.gemma4edge.app.newer

import android.app.PendingIntent
import android.app.Service
import android.content.Intent
import android.content.pm.ServiceInfo
import androidx.core.app.NotificationChannelCompat
import androidx.core.app.NotificationCompat
import androidx.core.app.NotificationManagerCompat
import androidx.core.app.ServiceCompat
import dev.gemma4edge.app.MainActivity
import dev.gemma4edge.app.R

private const val CHANNEL = "download"
private const val ID = 1

/** Keeps [service] in the foreground with a notification of how far it is, [share] of 1. */
fun showProgress(service: Service, text: String, share: Float) {
    val channel = NotificationChannelCompat.Builder(CHANNEL, NotificationManagerCompat.IMPORTANCE_LOW)
        .setName(service.getString(R.string.download_channel))
        .build()
    NotificationManagerCompat.from(service).createNotificationChannel(channel)
    val open = PendingIntent.getActivity(
        service,
        0,
        Intent(service, MainActivity::class.java),
        PendingIntent.FLAG_IMMUTABLE
    )
    val notification = NotificationCompat.Builder(service, CHANNEL)
        .setSmallIcon(R.drawable.ic_download)
        .setContentTitle(service.getString(R.string.downloading))
        .setContentText(text)
        .setProgress(100, (100 * share).toInt(), false)
        .setOngoing(true)
        .setContentIntent(open)
        .build()
    ServiceCompat.startForeground(service, ID, notification, ServiceInfo.FOREGROUND_SERVICE_TYPE_DATA_SYNC)
}
