package dev.gemma4edge.ui

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.PaddingValues
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.lazy.LazyColumn
import androidx.compose.foundation.lazy.items
import androidx.compose.foundation.lazy.rememberLazyListState
import androidx.compose.foundation.text.selection.SelectionContainer
import androidx.compose.material3.Card
import androidx.compose.material3.CardDefaults
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.LaunchedEffect
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.text.font.FontFamily
import androidx.compose.ui.text.font.FontStyle
import androidx.compose.ui.unit.dp

/** A conversation; the last turn grows as it is written. */
@Composable
fun ChatScreen(state: ChatState, events: ChatEvents) {
    if (state.model == null) {
        Text(state.refusal ?: "Load a model first.", Modifier.padding(16.dp))
        return
    }
    Column(Modifier.fillMaxSize()) {
        Header(state)
        Turns(state.turns, Modifier.weight(1f))
        Composer(state, events)
    }
}

@Composable
private fun Header(state: ChatState) {
    Row(Modifier.fillMaxWidth().padding(horizontal = 16.dp, vertical = 8.dp), Arrangement.SpaceBetween) {
        Text(state.model.orEmpty(), style = MaterialTheme.typography.labelLarge)
        Text(state.memory, style = MaterialTheme.typography.labelMedium)
    }
}

@Composable
private fun Turns(turns: List<ChatTurn>, modifier: Modifier) {
    val list = rememberLazyListState()
    LaunchedEffect(turns.size) { if (turns.isNotEmpty()) list.animateScrollToItem(turns.lastIndex) }
    LazyColumn(modifier, list, PaddingValues(16.dp), verticalArrangement = Arrangement.spacedBy(8.dp)) {
        items(turns) { TurnCard(it) }
    }
}

@Composable
private fun TurnCard(turn: ChatTurn) {
    val colors = MaterialTheme.colorScheme
    val colour = if (turn.fromUser) colors.secondaryContainer else colors.surfaceVariant
    Column(Modifier.fillMaxWidth(), horizontalAlignment = if (turn.fromUser) Alignment.End else Alignment.Start) {
        Card(colors = CardDefaults.cardColors(containerColor = colour)) {
            Column(Modifier.padding(12.dp), verticalArrangement = Arrangement.spacedBy(4.dp)) {
                turn.attachments.forEach { Text(it, style = MaterialTheme.typography.labelMedium) }
                if (turn.thoughts.isNotBlank()) {
                    Text(turn.thoughts.trim(), fontStyle = FontStyle.Italic, style = MaterialTheme.typography.bodySmall)
                }
                SelectionContainer { Text(turn.text) }
                turn.calls.forEach { Text(it, fontFamily = FontFamily.Monospace) }
            }
        }
        if (turn.stats.isNotEmpty()) {
            Text(turn.stats, Modifier.padding(4.dp), style = MaterialTheme.typography.labelSmall)
        }
    }
}
