package dev.gemma4edge.app.storage

import dev.gemma4edge.core.bundle.Fault
import dev.gemma4edge.core.bundle.Manifest
import dev.gemma4edge.core.bundle.readManifest
import dev.gemma4edge.core.bundle.unfinishedFiles
import dev.gemma4edge.core.device.gigabytes
import java.io.File
import java.io.IOException

/** A folder that may be a bundle. */
sealed interface Found {
    val folder: File

    data class Bundle(override val folder: File, val manifest: Manifest) : Found

    data class Damaged(override val folder: File, val fault: String) : Found
}

/**
 * Bundles in the app's own storage, and those that adb pushed to [pushed], which the app may read as well.
 */
class BundleStore(val own: File, val pushed: File) {
    /** What is there, with what a download or a copy left behind: it takes room until somebody deletes it. */
    fun list(): List<Found> = listOf(own, pushed)
        .flatMap { it.listFiles().orEmpty().asList() }
        .filter { it.isDirectory }
        .sortedBy { it.name.trimStart('.') }
        .map { if (isUnfinished(it)) unfinished(it) else look(it) }

    /** Folders that are still being filled begin with a dot. */
    fun isUnfinished(folder: File) = folder.name.startsWith('.')

    /** Where a bundle called [name] goes. */
    fun target(name: String) = File(own, name)

    /** @throws IOException it is no folder of this store, or does not go away. */
    fun delete(folder: File) {
        if (folder.parentFile != own && folder.parentFile != pushed) throw IOException("$folder is none of the app's")
        if (!folder.deleteRecursively()) throw IOException("$folder cannot be deleted: remove it with adb")
    }

    private fun unfinished(folder: File): Found {
        val size = gigabytes(folder.walk().filter { it.isFile }.sumOf { it.length() })
        return Found.Damaged(folder, "Unfinished, $size: download or import it again, or delete what is there.")
    }

    private fun look(folder: File): Found = try {
        val manifest = readManifest(folder)
        val faults = unfinishedFiles(folder, manifest.files)
        if (faults.isEmpty()) Found.Bundle(folder, manifest) else Found.Damaged(folder, tell(faults))
    } catch (error: IOException) {
        Found.Damaged(folder, error.message.orEmpty())
    }

    private fun tell(faults: List<Fault>): String {
        val more = if (faults.size > 1) ", and ${faults.size - 1} more are not whole" else ""
        return "${faults.first().path} ${faults.first().reason}$more: copy the bundle again"
    }
}
