package dev.gemma4edge.app.screens

import dev.gemma4edge.core.bundle.GoldenEntry
import dev.gemma4edge.core.bundle.Modality
import dev.gemma4edge.core.selftest.GoldenResult
import dev.gemma4edge.core.selftest.Judgement
import dev.gemma4edge.core.selftest.bounds
import dev.gemma4edge.core.selftest.judge
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
                val verdict = shared.onEngine { replayAll(loaded) }
                change { it.copy(verdict = verdict) }
            } finally {
                change { it.copy(running = false) }
            }
        }
    }

    fun cancel() {
        wanted = false
    }

    /** The chat's engine is closed meanwhile: both hold the weights. */
    private fun replayAll(loaded: Loaded): String {
        loaded.close()
        val goldens = loaded.bundle.manifest.goldens
        val found = LinkedHashMap<Modality, MutableList<GoldenResult>>()
        loaded.bundle.session(loaded.kind, shared.scratch).use { session ->
            for ((done, entry) in goldens.withIndex()) {
                if (!wanted) return "Cancelled after $done of ${goldens.size} goldens."
                change { it.copy(progress = "Golden ${entry.name}") }
                replayOne(loaded, entry, session)?.let { found.getOrPut(entry.modality) { ArrayList() } += it }
            }
        }
        return judgeAll(loaded, found)
    }

    /** Null where the golden does not fit. */
    private fun replayOne(loaded: Loaded, entry: GoldenEntry, session: Session): GoldenResult? {
        val golden = readGolden(loaded.bundle.folder, entry)
        val positions = golden.inputs.ids.size + golden.facts.tokens.size
        val context = loaded.bundle.manifest.limits.context
        if (positions > context) {
            show(GoldenRow(entry.name, null, "Not compared: $positions positions do not fit the context of $context"))
            return null
        }
        return replay(golden, session, loaded.bundle.manifest.tokens.suppress).also { show(row(it)) }
    }

    /** By modality, as `python -m runtime verify` does: the bounds are of its figures, not of a golden's. */
    private fun judgeAll(loaded: Loaded, found: Map<Modality, List<GoldenResult>>): String {
        val verification = loaded.bundle.manifest.verification
        val judged = found.map { (modality, results) ->
            val judgement = judge(results, bounds(verification, loaded.kind.format, modality))
            judgement.also { show(row(modality, results.size, it)) }
        }
        val compared = "${found.values.sumOf { it.size }} of ${loaded.bundle.manifest.goldens.size} goldens"
        return verdict(judged, compared)
    }

    private fun row(modality: Modality, goldens: Int, judged: Judgement): GoldenRow {
        val figures = "mean KL %.1e, relative rms at most %.1e".format(judged.klMean, judged.rms)
        val told = judged.failing.joinToString().ifEmpty { "other tokens in ${judged.greedy}, $figures" }
        return GoldenRow("All $goldens of ${modality.name.lowercase()}", judged.passed, told)
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
        return GoldenRow(result.name, null, "${greedy.compared} tokens$differs$ties. $logits")
    }

    private fun verdict(judged: List<Judgement>, compared: String): String = when {
        judged.isEmpty() -> "This bundle has no goldens that fit."
        judged.all { it.passed } -> "Passed: $compared are within the bounds of their modalities."
        else -> "Failed in ${judged.count { !it.passed }} of ${judged.size} modalities, of $compared."
    }

    private fun show(row: GoldenRow) = change { it.copy(results = it.results + row) }

    private fun change(how: (SelfTestState) -> SelfTestState) = shared.change { it.copy(selfTest = how(it.selfTest)) }
}
