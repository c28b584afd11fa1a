package dev.gemma4edge.app.screens

import android.content.Context
import dev.gemma4edge.app.device.Device
import dev.gemma4edge.app.engine.EngineKind
import dev.gemma4edge.app.engine.OpenBundle
import dev.gemma4edge.app.media.Images
import dev.gemma4edge.app.storage.BundleStore
import dev.gemma4edge.core.chat.Engine
import dev.gemma4edge.core.chat.EngineException
import dev.gemma4edge.ui.AppState
import java.io.File
import java.io.IOException
import java.util.concurrent.Executors
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.flow.MutableSharedFlow
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/** What only an activity can do for a screen. */
sealed interface Request {
    data object PickFolder : Request

    data object PickImage : Request

    data object TakePhoto : Request

    data object PickSound : Request

    data object AskForMicrophone : Request

    data class Share(val text: String) : Request
}

/** A bundle that was chosen; its engine opens when it is first needed, and may be closed in between. */
class Loaded(val bundle: OpenBundle, val kind: EngineKind, private val scratch: File) {
    private var open: Engine? = null

    val title get() = "${bundle.folder.name}, ${kind.title}"

    /** On the engine's thread. */
    fun engine(): Engine = open ?: bundle.engine(kind, scratch).also { open = it }

    /** The engine, where it is open, from any thread. */
    val running: Engine? get() = open

    fun close() {
        open?.close()
        open = null
    }
}

/** What the screens' controllers share. */
class Shared(context: Context) {
    val state = MutableStateFlow(AppState())
    val requests = MutableSharedFlow<Request>(extraBufferCapacity = 8)
    val scope = CoroutineScope(SupervisorJob() + Dispatchers.Main.immediate)
    val scratch: File = context.cacheDir
    val device = Device(context)
    val images = Images(context.contentResolver, scratch)
    val store = BundleStore(
        own = File(context.filesDir, "bundles").apply { mkdirs() },
        pushed = File(context.getExternalFilesDir(null) ?: context.filesDir, "bundles").apply { mkdirs() }
    )

    @Volatile
    var loaded: Loaded? = null

    private val engineThread = Executors.newSingleThreadExecutor().asCoroutineDispatcher()

    fun change(how: (AppState) -> AppState) = state.update(how)

    fun notice(text: String) = change { it.copy(notice = text) }

    /** Runs [block]; what it refuses is told in one line. */
    fun launch(block: suspend () -> Unit): Job = scope.launch {
        try {
            block()
        } catch (error: EngineException) {
            notice(error.message ?: "the engine stopped")
        } catch (error: IOException) {
            notice(error.message ?: "a file cannot be read")
        } catch (error: IllegalArgumentException) {
            notice(error.message ?: "this cannot be said")
        } catch (_: OutOfMemoryError) {
            notice("There is not enough memory: close other apps, or use a smaller model.")
        }
    }

    /** Engines block, and want one thread. */
    suspend fun <T> onEngine(block: () -> T): T = withContext(engineThread) { block() }

    suspend fun <T> onDisk(block: () -> T): T = withContext(Dispatchers.IO) { block() }

    /** Ends what is running, then the engine itself, behind it on its thread. */
    fun release() {
        val last = loaded
        loaded = null
        last?.running?.stop()
        engineThread.executor.execute { last?.close() }
        engineThread.close()
    }
}
