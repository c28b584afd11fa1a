package dev.gemma4edge.ui

/** The four screens. */
enum class Screen(val title: String) { MODELS("Models"), CHAT("Chat"), BENCH("Benchmark"), SELF_TEST("Self-test") }

/** All that is shown; screens take their part and hand out events. */
data class AppState(
    val screen: Screen = Screen.MODELS,
    val models: ModelsState = ModelsState(),
    val chat: ChatState = ChatState(),
    val bench: BenchState = BenchState(),
    val selfTest: SelfTestState = SelfTestState(),
    val notice: String? = null
) {
    /** Something goes on that a phone would slow down or end once its screen is off. */
    val working get() = models.busy != null || chat.writing || bench.running || selfTest.running
}

/** Bundles on the device, and how one comes there. */
data class ModelsState(
    val bundles: List<BundleItem> = emptyList(),
    val download: DownloadItem? = null,
    val busy: String? = null,
    val pushFolder: String = "",
    val warning: LoadWarning? = null
)

/** A bundle; [fault] says why it cannot be used. */
data class BundleItem(
    val path: String,
    val name: String,
    val detail: String,
    val engines: List<String> = emptyList(),
    val loaded: String? = null,
    val fault: String? = null
)

/** Bytes so far, and what is left in words. */
data class DownloadItem(
    val url: String,
    val path: String,
    val share: Float,
    val remaining: String,
    val running: Boolean
)

/** A bundle that does not fit the device, with the numbers in [text]. */
data class LoadWarning(val path: String, val engine: String, val text: String)

/** A conversation; [refusal] says why there can be none with the model that is loaded. */
data class ChatState(
    val model: String? = null,
    val refusal: String? = null,
    val turns: List<ChatTurn> = emptyList(),
    val attachments: List<String> = emptyList(),
    val takesImages: Boolean = false,
    val takesAudio: Boolean = false,
    val recording: Boolean = false,
    val writing: Boolean = false,
    val thinking: Boolean = false,
    val memory: String = ""
)

/** A turn of the user's or the model's; [stats] tell what the model's took. */
data class ChatTurn(
    val fromUser: Boolean,
    val text: String,
    val thoughts: String = "",
    val calls: List<String> = emptyList(),
    val attachments: List<String> = emptyList(),
    val stats: String = ""
)

/** Figures of the loaded model. */
data class BenchState(
    val model: String? = null,
    val running: Boolean = false,
    val progress: String = "",
    val rows: List<BenchRow> = emptyList(),
    val canShare: Boolean = false
)

/** One prompt length, in words. */
data class BenchRow(val length: String, val firstToken: String, val prefill: String, val decode: String)

/** Goldens of the loaded bundle. */
data class SelfTestState(
    val model: String? = null,
    val running: Boolean = false,
    val progress: String = "",
    val results: List<GoldenRow> = emptyList(),
    val verdict: String = ""
)

/** A golden, or all of a modality, which [passed] is about. */
data class GoldenRow(val name: String, val passed: Boolean?, val detail: String)
