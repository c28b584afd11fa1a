package dev.gemma4edge.ui

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.material3.Button
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.ui.Modifier
import androidx.compose.ui.text.font.FontWeight
import androidx.compose.ui.unit.dp

private val HEADINGS = BenchRow("Positions", "First token", "Prefill", "Decode")

/** Speed of the loaded model, medians of several rounds. */
@Composable
fun BenchScreen(state: BenchState, events: MeasureEvents) {
    Column(Modifier.padding(16.dp), verticalArrangement = Arrangement.spacedBy(12.dp)) {
        Text(state.model ?: "Load a model first.", style = MaterialTheme.typography.titleMedium)
        if (state.running) Busy(state.progress)
        if (state.rows.isNotEmpty()) Line(HEADINGS, FontWeight.Bold)
        state.rows.forEach { Line(it, FontWeight.Normal) }
        Row(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
            if (state.running) {
                OutlinedButton(onClick = events::cancel) { Text("Cancel") }
            } else {
                Button(onClick = events::bench, enabled = state.model != null) { Text("Measure") }
            }
            OutlinedButton(onClick = events::shareBench, enabled = state.canShare) { Text("Share as JSON") }
        }
        Text(
            "A phone slows down as it gets warm: let it cool, and look at the spread.",
            style = MaterialTheme.typography.bodySmall
        )
    }
}

@Composable
private fun Line(row: BenchRow, weight: FontWeight) {
    Row(Modifier.fillMaxWidth()) {
        listOf(row.length, row.firstToken, row.prefill, row.decode).forEach {
            Text(it, Modifier.weight(1f), fontWeight = weight, style = MaterialTheme.typography.bodySmall)
        }
    }
}
