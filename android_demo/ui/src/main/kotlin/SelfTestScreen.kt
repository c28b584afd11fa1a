package dev.gemma4edge.ui

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.lazy.LazyColumn
import androidx.compose.foundation.lazy.items
import androidx.compose.material3.Button
import androidx.compose.material3.Card
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.ui.Modifier
import androidx.compose.ui.unit.dp

/** The bundle's goldens, replayed on this device. */
@Composable
fun SelfTestScreen(state: SelfTestState, events: MeasureEvents) {
    Column(Modifier.padding(16.dp), verticalArrangement = Arrangement.spacedBy(12.dp)) {
        Text(state.model ?: "Load a model first.", style = MaterialTheme.typography.titleMedium)
        if (state.running) {
            Busy(state.progress)
            OutlinedButton(onClick = events::cancel) { Text("Cancel") }
        } else {
            Button(onClick = events::selfTest, enabled = state.model != null) { Text("Replay the goldens") }
        }
        if (state.verdict.isNotEmpty()) Text(state.verdict, style = MaterialTheme.typography.titleSmall)
        LazyColumn(verticalArrangement = Arrangement.spacedBy(8.dp)) { items(state.results) { Result(it) } }
    }
}

@Composable
private fun Result(row: GoldenRow) {
    val (mark, colour) = when (row.passed) {
        true -> ": passed" to MaterialTheme.colorScheme.primary
        false -> ": failed" to MaterialTheme.colorScheme.error
        null -> "" to MaterialTheme.colorScheme.outline
    }
    Card(Modifier.fillMaxWidth()) {
        Column(Modifier.padding(12.dp)) {
            Text("${row.name}$mark", color = colour)
            Text(row.detail, style = MaterialTheme.typography.bodySmall)
        }
    }
}
