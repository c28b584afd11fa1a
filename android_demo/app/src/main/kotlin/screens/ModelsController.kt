package dev.gemma4edge.app.screens

import android.content.Context
import android.net.Uri
import dev.gemma4edge.app.download.DownloadService
import dev.gemma4edge.app.download.DownloadState
import dev.gemma4edge.app.download.Downloads
import dev.gemma4edge.app.engine.EngineKind
import dev.gemma4edge.app.engine.OpenBundle
import dev.gemma4edge.app.storage.FolderImport
import dev.gemma4edge.app.storage.Found
import dev.gemma4edge.core.bundle.Manifest
import dev.gemma4edge.core.bundle.readManifest
import dev.gemma4edge.core.bundle.verifyFiles
import dev.gemma4edge.core.device.Fit
import dev.gemma4edge.core.device.checkFit
import dev.gemma4edge.core.device.gigabytes
import dev.gemma4edge.core.media.readProcessorConfig
import dev.gemma4edge.core.text.Tokenizer
import dev.gemma4edge.ui.BundleItem
import dev.gemma4edge.ui.DownloadItem
import dev.gemma4edge.ui.LoadWarning
import dev.gemma4edge.ui.ModelEvents
import dev.gemma4edge.ui.ModelsState
import dev.gemma4edge.ui.Screen
import java.io.File
import kotlinx.coroutines.launch

/** Bundles: found, fetched, checked, loaded. */
class ModelsController(
    private val context: Context,
    private val shared: Shared,
    private val onLoaded: (Loaded) -> Unit
) : ModelEvents {
    init {
        change { it.copy(pushFolder = shared.store.pushed.path) }
        refresh()
        shared.scope.launch { Downloads.state.collect(::showDownload) }
    }

    override fun importFolder() {
        shared.requests.tryEmit(Request.PickFolder)
    }

    /** The user chose a folder. */
    fun imported(tree: Uri) = busy("Copying") {
        FolderImport(context.contentResolver, ::tellBusy).copy(tree, shared.store.own)
    }

    override fun refresh() {
        shared.launch {
            val found = shared.onDisk { shared.store.list() }
            change { it.copy(bundles = found.map(::item)) }
        }
    }

    override fun download(url: String) {
        val name = url.trimEnd('/').substringAfterLast('/')
        if (!url.startsWith("https://") || name.isEmpty() || name.startsWith('.')) {
            shared.notice("Write the https address of a bundle's folder.")
        } else {
            DownloadService.start(context, url, shared.store.target(name))
        }
    }

    override fun pauseDownload() = DownloadService.pause(context)

    override fun load(path: String, engine: String, anyway: Boolean) {
        dismissWarning()
        shared.launch {
            val manifest = shared.onDisk { readManifest(File(path)) }
            val report = checkFit(manifest.limits.minimumMemory, shared.device.memory())
            if (report.fit == Fit.FITS || anyway) {
                open(File(path), manifest, EngineKind.entries.first { it.title == engine })
            } else {
                change { it.copy(warning = LoadWarning(path, engine, report.warning)) }
            }
        }
    }

    override fun dismissWarning() = change { it.copy(warning = null) }

    override fun verify(path: String) = busy("Checking files") {
        val folder = File(path)
        val files = readManifest(folder).files
        val total = files.sumOf { it.size }
        val faults = verifyFiles(folder, files) { tellBusy("Checking files: ${gigabytes(it)} of ${gigabytes(total)}") }
        val told = faults.joinToString("\n") { "${it.path} ${it.reason}" }
        shared.notice(told.ifEmpty { "All ${files.size} files are as the manifest says." })
    }

    override fun delete(path: String) {
        val folder = File(path)
        when {
            shared.loaded?.bundle?.folder == folder -> shared.notice("This bundle is loaded: load another first.")
            shared.store.isUnfinished(folder) && isFilling() -> shared.notice("It is being filled: wait, or pause it.")
            else -> busy("Deleting") { shared.store.delete(folder) }
        }
    }

    /** A download or a copy may be writing into an unfinished folder. */
    private fun isFilling() = Downloads.state.value?.running == true || shared.state.value.models.busy != null

    /** The old engine goes first: two do not fit. */
    private suspend fun open(folder: File, manifest: Manifest, kind: EngineKind) {
        change { it.copy(busy = "Loading ${folder.name}") }
        try {
            val loaded = shared.onEngine {
                shared.loaded?.close()
                Loaded(read(folder, manifest), kind, shared.scratch).also { it.engine() }
            }
            shared.loaded = loaded
            onLoaded(loaded)
            shared.change { it.copy(screen = Screen.CHAT) }
        } finally {
            change { it.copy(busy = null) }
            refresh()
        }
    }

    private fun read(folder: File, manifest: Manifest): OpenBundle {
        val tokenizer = Tokenizer.read(File(folder, "tokenizer.json"))
        return OpenBundle(folder, manifest, tokenizer, readProcessorConfig(folder))
    }

    private fun item(found: Found): BundleItem = when (found) {
        is Found.Damaged -> BundleItem(found.folder.path, found.folder.name, "", fault = found.fault)

        is Found.Bundle -> BundleItem(
            found.folder.path,
            found.folder.name,
            detail(found.manifest),
            EngineKind.of(found.manifest).map { it.title },
            loaded = shared.loaded?.takeIf { it.bundle.folder == found.folder }?.kind?.title
        )
    }

    private fun detail(manifest: Manifest): String {
        val recipe = manifest.recipe
        val bits = "%.2f".format(recipe.bitsPerWeight)
        return "${manifest.source.name}, ${recipe.name} ($bits bits), ${gigabytes(
            manifest.files.sumOf {
                it.size
            }
        )}, " +
            "context ${manifest.limits.context}, needs ${gigabytes(manifest.limits.minimumMemory)} of memory"
    }

    private fun showDownload(download: DownloadState?) {
        val item = download?.run {
            DownloadItem(url, path, if (total > 0) done.toFloat() / total else 0f, remaining, running)
        }
        change { it.copy(download = item) }
        download?.fault?.let(shared::notice)
        if (download == null) refresh()
    }

    private fun busy(what: String, work: () -> Unit) {
        shared.launch {
            tellBusy(what)
            try {
                shared.onDisk(work)
            } finally {
                change { it.copy(busy = null) }
                refresh()
            }
        }
    }

    private fun tellBusy(what: String) = change { it.copy(busy = what) }

    private fun change(how: (ModelsState) -> ModelsState) = shared.change { it.copy(models = how(it.models)) }
}
