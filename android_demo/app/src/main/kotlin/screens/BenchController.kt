package dev.gemma4edge.app.screens

import dev.gemma4edge.core.bench.Bench
import dev.gemma4edge.core.bench.EngineSpeed
import dev.gemma4edge.core.bench.Figure
import dev.gemma4edge.core.bench.MemoryUse
import dev.gemma4edge.core.bench.ProcessMemory
import dev.gemma4edge.core.bench.Resident
import dev.gemma4edge.core.bench.TextSpeed
import dev.gemma4edge.core.bench.Work
import dev.gemma4edge.core.bench.benchPrompts
import dev.gemma4edge.core.bench.measure
import dev.gemma4edge.ui.BenchRow
import dev.gemma4edge.ui.BenchState

private val LENGTHS = listOf(16, 128, 512)
private val CONTEXTS = listOf(128, 512)
private val WORK = Work(LENGTHS, CONTEXTS, tokens = 16, repeats = 5, warmup = 1, loads = 1, threads = null)

/** Speed and memory of the loaded model, as `python -m runtime bench` measures them. */
class BenchController(private val shared: Shared) {
    private var result: Bench? = null

    @Volatile
    private var wanted = false

    fun bench() {
        val loaded = shared.loaded ?: return
        wanted = true
        change { BenchState(loaded.title, running = true) }
        shared.launch {
            try {
                result = shared.onEngine { run(loaded) }
                val rows = result?.engines?.single()?.text.orEmpty().map(::row)
                change { it.copy(rows = rows, canShare = result != null) }
            } finally {
                change { it.copy(running = false) }
            }
        }
    }

    fun share() {
        result?.let { shared.requests.tryEmit(Request.Share(it.toJson())) }
    }

    fun cancel() {
        wanted = false
    }

    private fun run(loaded: Loaded): Bench? {
        loaded.close()
        val begun = System.nanoTime()
        val engine = loaded.engine()
        val load = (System.nanoTime() - begun) / 1e9
        val opened = ProcessMemory.now()
        val lengths = LENGTHS.filter { it + WORK.tokens < loaded.bundle.manifest.limits.context }
        val work = WORK.copy(lengths = lengths, contexts = CONTEXTS.filter { it in lengths })
        val prompts = benchPrompts(loaded.bundle.tokenizer, lengths)
        val text = measure(engine, prompts, work, ::tell) { wanted } ?: return null
        engine.reset()
        return bench(loaded, work, speed(loaded, load, opened, text))
    }

    private fun bench(loaded: Loaded, work: Work, speed: EngineSpeed): Bench {
        val manifest = loaded.bundle.manifest
        val machine = shared.device.machine()
        return Bench(
            bundle = loaded.bundle.folder.name,
            target = manifest.target,
            recipe = manifest.recipe.name,
            context = manifest.limits.context,
            device = "app:${machine.name}",
            work = work,
            machine = machine,
            engines = listOf(speed),
            ratios = emptyList(),
            skipped = emptyMap(),
            notes = listOf("measured by the Android demo, its screen on"),
            energy = null
        )
    }

    private fun speed(loaded: Loaded, load: Double, opened: ProcessMemory, text: List<TextSpeed>): EngineSpeed {
        val now = ProcessMemory.now()
        return EngineSpeed(
            engine = loaded.kind.format,
            load = Figure.of(listOf(load)),
            firstToken = null,
            threads = now.threads,
            text = text,
            media = emptyList(),
            memory = MemoryUse(null, resident(opened), resident(now), Resident(null, null, now.peak)),
            notes = listOf("the engine was opened once, and the app's own memory is in the figures")
        )
    }

    private fun resident(memory: ProcessMemory) = Resident(memory.anonymous, memory.file, memory.total)

    private fun row(speed: TextSpeed) = BenchRow(
        "${speed.length}",
        "%.2f s".format(speed.firstToken.median),
        rate(speed.prefill),
        speed.decode?.let(::rate) ?: ""
    )

    private fun rate(figure: Figure) = "%.1f/s ± %.0f %%".format(figure.median, 50 * figure.spread)

    private fun tell(round: Int, length: Int) =
        change { it.copy(progress = "Round $round of ${WORK.warmup + WORK.repeats}, $length positions") }

    private fun change(how: (BenchState) -> BenchState) = shared.change { it.copy(bench = how(it.bench)) }
}
