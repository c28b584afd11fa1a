package dev.gemma4edge.app

import android.Manifest
import android.content.ActivityNotFoundException
import android.content.Intent
import android.net.Uri
import android.os.Bundle
import android.view.WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON
import androidx.activity.ComponentActivity
import androidx.activity.compose.setContent
import androidx.activity.enableEdgeToEdge
import androidx.activity.result.contract.ActivityResultContracts.GetContent
import androidx.activity.result.contract.ActivityResultContracts.OpenDocumentTree
import androidx.activity.result.contract.ActivityResultContracts.RequestPermission
import androidx.activity.result.contract.ActivityResultContracts.TakePicture
import androidx.activity.viewModels
import androidx.compose.runtime.LaunchedEffect
import androidx.compose.runtime.getValue
import androidx.core.content.FileProvider
import androidx.lifecycle.compose.collectAsStateWithLifecycle
import androidx.lifecycle.viewmodel.initializer
import androidx.lifecycle.viewmodel.viewModelFactory
import dev.gemma4edge.app.screens.Request
import dev.gemma4edge.ui.App
import java.io.File

/** Shows the app, and does for it what only an activity can: pickers, camera, permissions, sharing. */
class MainActivity : ComponentActivity() {
    private val model: AppViewModel by viewModels {
        viewModelFactory { initializer { AppViewModel.create(application) } }
    }

    private val folder = registerForActivityResult(OpenDocumentTree()) { it?.let(model::folderChosen) }
    private val image = registerForActivityResult(GetContent()) { it?.let(model::imageChosen) }
    private val sound = registerForActivityResult(GetContent()) { it?.let(model::soundChosen) }
    private val camera = registerForActivityResult(TakePicture()) { taken -> if (taken) model.imageChosen(photo) }
    private val microphone = registerForActivityResult(RequestPermission()) { if (it) model.microphoneAllowed() }

    /** The camera app writes here; one photo at a time. */
    private val photo: Uri by lazy {
        val file = File(cacheDir, "photos/photo.jpg").apply { parentFile?.mkdirs() }
        FileProvider.getUriForFile(this, "$packageName.photos", file)
    }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        enableEdgeToEdge() // as Android 15 does by itself
        setContent {
            val state by model.state.collectAsStateWithLifecycle()
            LaunchedEffect(model) { model.requests.collect(::fulfil) }
            LaunchedEffect(state.working) { keepScreenOn(state.working) }
            App(state, model)
        }
    }

    private fun keepScreenOn(on: Boolean) {
        if (on) window.addFlags(FLAG_KEEP_SCREEN_ON) else window.clearFlags(FLAG_KEEP_SCREEN_ON)
    }

    private fun fulfil(request: Request) = try {
        launch(request)
    } catch (_: ActivityNotFoundException) {
        model.nobodyAnswers()
    }

    private fun launch(request: Request) = when (request) {
        Request.PickFolder -> folder.launch(null)
        Request.PickImage -> image.launch("image/*")
        Request.PickSound -> sound.launch("audio/*")
        Request.TakePhoto -> camera.launch(photo)
        Request.AskForMicrophone -> microphone.launch(Manifest.permission.RECORD_AUDIO)
        is Request.Share -> share(request.text)
    }

    private fun share(text: String) {
        val send = Intent(Intent.ACTION_SEND).setType("application/json").putExtra(Intent.EXTRA_TEXT, text)
        startActivity(Intent.createChooser(send, null))
    }
}
