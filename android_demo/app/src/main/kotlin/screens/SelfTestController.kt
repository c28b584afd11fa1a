package dev.gemma4edge.app.screens

import dev.gemma4edge.core.bundle.GoldenEntry
import dev.gemma4edge.core.selftest.GoldenResult
import dev.gemma4edge.core.selftest.bounds
import dev.gemma4edge.core.selftest.readGolden
import dev.gemma4edge.core.selftest.replay
import dev.gemma4edge.core.session.Session
import dev.gemma4edge.ui.GoldenRow
import dev.gemma4edge.ui.SelfTestState

/** The bundle's goldens on this device: each is fed as tensors, and the engine's logits are compared. */
class SelfTestController(private val shared: Shared) {
    @Volatile
    private var wanted = false

    fun run() {
        val loaded = shared.loaded ?: return
        wanted = true
        change { SelfTestState(loaded.title, running = true, progress = "Opening") }
        shared.launch {
            try {
                shared.onEngine { replayAll(loaded) }
                change { it.copy(verdict = verdict(it.results, loaded.bundle.manifest.goldens.size)) }
            } finally {
                change { it.copy(running = false) }
            }
        }
    }

    fun cancel() {
        wanted = false
    }

    /** The chat's engine is closed meanwhile: both hold the weights. */
    private fun replayAll(loaded: Loaded) {
        loaded.close()
        val manifest = loaded.bundle.manifest
        loaded.bundle.session(loaded.kind, shared.scratch).use { session ->
            for (entry in manifest.goldens) {
                if (!wanted) return
                change { it.copy(progress = "Golden ${entry.name}") }
                val row = row(loaded, entry, session)
                change { it.copy(results = it.results + row) }
            }
        }
    }

    private fun row(loaded: Loaded, entry: GoldenEntry, session: Session): GoldenRow {
        val golden = readGolden(loaded.bundle.folder, entry)
        val positions = golden.inputs.ids.size + golden.facts.tokens.size
        val context = loaded.bundle.manifest.limits.context
        if (positions >
            context
        ) {
            return GoldenRow(entry.name, null, "$positions positions do not fit the context of $context")
        }
        val manifest = loaded.bundle.manifest
        val bounds = bounds(manifest.verification, loaded.kind.format, entry.modality)
        return row(replay(golden, session, manifest.tokens.suppress, bounds = bounds))
    }

    private fun row(result: GoldenResult): GoldenRow {
        val greedy = result.greedy
        val differs = if (greedy.errors.isEmpty()) "" else ", other tokens at ${greedy.errors.joinToString()}"
        val ties = if (greedy.nearTies.isEmpty()) "" else ", near ties at ${greedy.nearTies.joinToString()}"
        val logits = "KL %.1e, relative rms %.1e, at most %.2f logits".format(
            result.kl.average(),
            result.rms,
            result.largest
        )
        return GoldenRow(result.name, result.passed, "${greedy.compared} tokens$differs$ties. $logits")
    }

    private fun verdict(results: List<GoldenRow>, goldens: Int): String = when {
        goldens == 0 -> "This bundle has no goldens."
        results.size < goldens -> "Cancelled after ${results.size} of $goldens goldens."
        results.all { it.passed != false } -> "${results.count { it.passed == true }} of $goldens goldens repeated."
        else -> "${results.count { it.passed == false }} of $goldens goldens differ."
    }

    private fun change(how: (SelfTestState) -> SelfTestState) = shared.change { it.copy(selfTest = how(it.selfTest)) }
}
