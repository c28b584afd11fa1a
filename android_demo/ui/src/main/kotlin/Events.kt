package dev.gemma4edge.ui

/** What a user can do. */
interface Events :
    ModelEvents,
    ChatEvents,
    MeasureEvents {
    fun show(screen: Screen)

    fun dismissNotice()
}

/** On the models' screen. */
interface ModelEvents {
    fun importFolder()

    fun refresh()

    fun download(url: String)

    fun pauseDownload()

    /** @param anyway although it does not fit. */
    fun load(path: String, engine: String, anyway: Boolean = false)

    fun dismissWarning()

    fun verify(path: String)

    fun delete(path: String)
}

/** In a chat. */
interface ChatEvents {
    fun send(text: String)

    fun stop()

    fun retry()

    fun newChat()

    fun think(on: Boolean)

    fun pickImage()

    fun takePhoto()

    fun pickSound()

    fun record(on: Boolean)

    fun dropAttachment(index: Int)
}

/** Benchmark and self-test. */
interface MeasureEvents {
    fun bench()

    fun shareBench()

    fun selfTest()

    fun cancel()
}
