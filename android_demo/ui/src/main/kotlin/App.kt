package dev.gemma4edge.ui

import androidx.compose.foundation.isSystemInDarkTheme
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.consumeWindowInsets
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.imePadding
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.statusBarsPadding
import androidx.compose.material3.AlertDialog
import androidx.compose.material3.ExperimentalMaterial3Api
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.PrimaryTabRow
import androidx.compose.material3.Scaffold
import androidx.compose.material3.Tab
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.material3.darkColorScheme
import androidx.compose.material3.lightColorScheme
import androidx.compose.runtime.Composable
import androidx.compose.ui.Modifier

/** The whole app: state in, events out. */
@Composable
fun App(state: AppState, events: Events) {
    MaterialTheme(if (isSystemInDarkTheme()) darkColorScheme() else lightColorScheme()) {
        Scaffold(topBar = { Tabs(state.screen, events::show) }) { inner ->
            // Android 15 draws apps under its bars and the keyboard, which must not be padded for twice.
            Column(Modifier.padding(inner).consumeWindowInsets(inner).imePadding().fillMaxSize()) {
                when (state.screen) {
                    Screen.MODELS -> ModelsScreen(state.models, events)
                    Screen.CHAT -> ChatScreen(state.chat, events)
                    Screen.BENCH -> BenchScreen(state.bench, events)
                    Screen.SELF_TEST -> SelfTestScreen(state.selfTest, events)
                }
            }
        }
        state.notice?.let { Notice(it, events::dismissNotice) }
    }
}

@OptIn(ExperimentalMaterial3Api::class)
@Composable
private fun Tabs(selected: Screen, show: (Screen) -> Unit) {
    PrimaryTabRow(selectedTabIndex = selected.ordinal, Modifier.statusBarsPadding()) {
        Screen.entries.forEach { screen ->
            Tab(selected = screen == selected, onClick = { show(screen) }, text = { Text(screen.title, maxLines = 1) })
        }
    }
}

@Composable
private fun Notice(text: String, dismiss: () -> Unit) {
    AlertDialog(
        onDismissRequest = dismiss,
        confirmButton = { TextButton(onClick = dismiss) { Text("OK") } },
        text = { Text(text) }
    )
}
