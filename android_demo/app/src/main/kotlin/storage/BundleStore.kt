package dev.gemma4edge.app.storage

import dev.gemma4edge.core.bundle.BundleException
import dev.gemma4edge.core.bundle.Manifest
import dev.gemma4edge.core.bundle.readManifest
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
    /** What is there; folders that are still being filled begin with a dot. */
    fun list(): List<Found> = listOf(own, pushed)
        .flatMap { it.listFiles().orEmpty().asList() }
        .filter { it.isDirectory && !it.name.startsWith('.') }
        .sortedBy { it.name }
        .map(::look)

    /** Where a bundle called [name] goes. */
    fun target(name: String) = File(own, name)

    /** @throws IOException it is no folder of this store, or does not go away. */
    fun delete(folder: File) {
        if (folder.parentFile != own && folder.parentFile != pushed) throw IOException("$folder is none of the app's")
        if (!folder.deleteRecursively()) throw IOException("$folder cannot be deleted: remove it with adb")
    }

    private fun look(folder: File): Found = try {
        Found.Bundle(folder, readManifest(folder))
    } catch (error: BundleException) {
        Found.Damaged(folder, error.message.orEmpty())
    }
}
