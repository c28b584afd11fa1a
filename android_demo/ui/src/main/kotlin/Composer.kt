package dev.gemma4edge.ui

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.ExperimentalLayoutApi
import androidx.compose.foundation.layout.FlowRow
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.material3.AssistChip
import androidx.compose.material3.Button
import androidx.compose.material3.FilterChip
import androidx.compose.material3.InputChip
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.unit.dp

/** Where the user's turn is made. */
@Composable
internal fun Composer(state: ChatState, events: ChatEvents) {
    var text by rememberSaveable { mutableStateOf("") }
    Column(Modifier.padding(12.dp), verticalArrangement = Arrangement.spacedBy(4.dp)) {
        Attachments(state, events)
        Options(state, events)
        Row(
            Modifier.fillMaxWidth(),
            horizontalArrangement = Arrangement.spacedBy(8.dp),
            verticalAlignment = Alignment.CenterVertically
        ) {
            OutlinedTextField(text, { text = it }, Modifier.weight(1f), label = { Text("Message") }, maxLines = 4)
            if (state.writing) {
                Button(onClick = events::stop) { Text("Stop") }
            } else {
                val canSend = text.isNotBlank() || state.attachments.isNotEmpty()
                Button(onClick = { events.send(text).also { text = "" } }, enabled = canSend) { Text("Send") }
            }
        }
    }
}

@OptIn(ExperimentalLayoutApi::class)
@Composable
private fun Attachments(state: ChatState, events: ChatEvents) {
    FlowRow(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
        state.attachments.forEachIndexed { index, name ->
            InputChip(selected = true, onClick = { events.dropAttachment(index) }, label = { Text("$name  ×") })
        }
    }
}

@OptIn(ExperimentalLayoutApi::class)
@Composable
private fun Options(state: ChatState, events: ChatEvents) {
    val idle = !state.writing
    FlowRow(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
        FilterChip(state.thinking, { events.think(!state.thinking) }, { Text("Think") }, enabled = idle)
        if (state.takesImages) {
            AssistChip(events::pickImage, { Text("Image") }, enabled = idle)
            AssistChip(events::takePhoto, { Text("Camera") }, enabled = idle)
        }
        if (state.takesAudio) {
            AssistChip(events::pickSound, { Text("Sound") }, enabled = idle)
            FilterChip(state.recording, { events.record(!state.recording) }, { Text("Record") }, enabled = idle)
        }
        if (state.turns.isNotEmpty()) {
            AssistChip(events::retry, { Text("Retry") }, enabled = idle)
            AssistChip(events::newChat, { Text("New chat") }, enabled = idle)
        }
    }
}
