package dev.gemma4edge.app

import android.app.Application
import android.net.Uri
import androidx.lifecycle.ViewModel
import dev.gemma4edge.app.newer.lastExit
import dev.gemma4edge.app.screens.BenchController
import dev.gemma4edge.app.screens.ChatController
import dev.gemma4edge.app.screens.Loaded
import dev.gemma4edge.app.screens.ModelsController
import dev.gemma4edge.app.screens.Request
import dev.gemma4edge.app.screens.SelfTestController
import dev.gemma4edge.app.screens.Shared
import dev.gemma4edge.ui.AppState
import dev.gemma4edge.ui.BenchState
import dev.gemma4edge.ui.ChatEvents
import dev.gemma4edge.ui.Events
import dev.gemma4edge.ui.ModelEvents
import dev.gemma4edge.ui.Screen
import dev.gemma4edge.ui.SelfTestState
import kotlinx.coroutines.cancel
import kotlinx.coroutines.flow.SharedFlow
import kotlinx.coroutines.flow.StateFlow

/** Outlives rotations of the screen; each screen's events go to its controller. */
class AppViewModel private constructor(
    private val shared: Shared,
    private val models: ModelsController,
    private val chat: ChatController
) : ViewModel(),
    Events,
    ModelEvents by models,
    ChatEvents by chat {
    private val bench = BenchController(shared)
    private val selfTest = SelfTestController(shared)

    val state: StateFlow<AppState> get() = shared.state
    val requests: SharedFlow<Request> get() = shared.requests

    override fun show(screen: Screen) = shared.change { it.copy(screen = screen) }

    override fun dismissNotice() = shared.change { it.copy(notice = null) }

    override fun bench() = bench.bench()

    override fun shareBench() = bench.share()

    override fun selfTest() = selfTest.run()

    override fun cancel() {
        bench.cancel()
        selfTest.cancel()
    }

    /** The user chose a folder, an image or a clip, or allowed the microphone. */
    fun folderChosen(tree: Uri) = models.imported(tree)

    fun imageChosen(image: Uri) = chat.addImage(image)

    fun soundChosen(sound: Uri) = chat.addSound(sound)

    fun microphoneAllowed() = chat.startRecording()

    /** There is no camera, for example. */
    fun nobodyAnswers() = shared.notice("No app on this device can do that.")

    override fun onCleared() {
        shared.scope.cancel()
        shared.release()
    }

    companion object {
        fun create(application: Application): AppViewModel {
            val shared = Shared(application)
            lastExit(application)?.let(shared::notice)
            val chat = ChatController(shared, application.contentResolver)

            fun loaded(model: Loaded) {
                chat.begin(model)
                shared.change { it.copy(bench = BenchState(model.title), selfTest = SelfTestState(model.title)) }
            }
            return AppViewModel(shared, ModelsController(application, shared, ::loaded), chat)
        }
    }
}
