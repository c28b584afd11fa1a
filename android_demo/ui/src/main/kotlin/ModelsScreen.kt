package dev.gemma4edge.ui

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.PaddingValues
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.lazy.LazyColumn
import androidx.compose.foundation.lazy.items
import androidx.compose.material3.AlertDialog
import androidx.compose.material3.Button
import androidx.compose.material3.Card
import androidx.compose.material3.LinearProgressIndicator
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.unit.dp

/** Bundles that are there, and three ways for one to come: a folder, adb, a download. */
@Composable
fun ModelsScreen(state: ModelsState, events: ModelEvents) {
    LazyColumn(contentPadding = PaddingValues(16.dp), verticalArrangement = Arrangement.spacedBy(12.dp)) {
        state.busy?.let { item { Busy(it) } }
        items(state.bundles, key = { it.path }) { Bundle(it, events) }
        if (state.bundles.isEmpty()) item { Text("No model is here yet.") }
        item { Sources(state, events) }
        item { Download(state.download, events) }
    }
    state.warning?.let { TooLarge(it, events) }
}

@Composable
private fun Bundle(bundle: BundleItem, events: ModelEvents) {
    Card(Modifier.fillMaxWidth()) {
        Column(Modifier.padding(16.dp), verticalArrangement = Arrangement.spacedBy(4.dp)) {
            Text(bundle.name, style = MaterialTheme.typography.titleMedium)
            Text(bundle.detail, style = MaterialTheme.typography.bodySmall)
            bundle.fault?.let { Text(it, color = MaterialTheme.colorScheme.error) }
            bundle.loaded?.let { Text("Loaded in $it", color = MaterialTheme.colorScheme.primary) }
            Row(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
                bundle.engines.forEach { engine ->
                    Button(onClick = { events.load(bundle.path, engine) }, enabled = bundle.loaded != engine) {
                        Text(engine)
                    }
                }
            }
            Row {
                TextButton(onClick = { events.verify(bundle.path) }) { Text("Check files") }
                TextButton(onClick = { events.delete(bundle.path) }) { Text("Delete") }
            }
        }
    }
}

@Composable
private fun Sources(state: ModelsState, events: ModelEvents) {
    Column(verticalArrangement = Arrangement.spacedBy(8.dp)) {
        Row(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
            OutlinedButton(onClick = events::importFolder) { Text("Import a folder") }
            OutlinedButton(onClick = events::refresh) { Text("Look again") }
        }
        Text("With adb, push a bundle to ${state.pushFolder}", style = MaterialTheme.typography.bodySmall)
    }
}

@Composable
private fun Download(download: DownloadItem?, events: ModelEvents) {
    var url by rememberSaveable { mutableStateOf("") }
    Column(verticalArrangement = Arrangement.spacedBy(8.dp)) {
        OutlinedTextField(
            value = url,
            onValueChange = { url = it },
            label = { Text("Address of a bundle's folder (https)") },
            singleLine = true,
            modifier = Modifier.fillMaxWidth()
        )
        if (download?.running == true) {
            LinearProgressIndicator(progress = { download.share }, modifier = Modifier.fillMaxWidth())
            Text("${download.path}, ${download.remaining}", style = MaterialTheme.typography.bodySmall)
            OutlinedButton(onClick = events::pauseDownload) { Text("Pause") }
        } else {
            val wanted = url.ifBlank { download?.url.orEmpty() }
            Button(onClick = { events.download(wanted) }, enabled = wanted.isNotBlank()) {
                Text(if (download == null) "Download" else "Go on")
            }
        }
    }
}

@Composable
private fun TooLarge(warning: LoadWarning, events: ModelEvents) {
    AlertDialog(
        onDismissRequest = events::dismissWarning,
        title = { Text("Does not fit") },
        text = { Text(warning.text) },
        confirmButton = {
            TextButton(onClick = { events.load(warning.path, warning.engine, anyway = true) }) { Text("Load anyway") }
        },
        dismissButton = { TextButton(onClick = events::dismissWarning) { Text("Do not load") } }
    )
}
