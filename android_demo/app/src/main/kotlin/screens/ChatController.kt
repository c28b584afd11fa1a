package dev.gemma4edge.app.screens

import android.content.ContentResolver
import android.net.Uri
import dev.gemma4edge.app.media.Recorder
import dev.gemma4edge.core.bench.ProcessMemory
import dev.gemma4edge.core.bundle.Dialogue
import dev.gemma4edge.core.bundle.MediaKind
import dev.gemma4edge.core.chat.Conversation
import dev.gemma4edge.core.chat.End
import dev.gemma4edge.core.chat.Generation
import dev.gemma4edge.core.device.gigabytes
import dev.gemma4edge.core.media.Sound
import dev.gemma4edge.core.media.readWav
import dev.gemma4edge.core.prompt.Part
import dev.gemma4edge.core.prompt.Segment
import dev.gemma4edge.core.prompt.Turn
import dev.gemma4edge.core.reply.Piece
import dev.gemma4edge.core.reply.Reply
import dev.gemma4edge.core.reply.ReplyReader
import dev.gemma4edge.ui.ChatEvents
import dev.gemma4edge.ui.ChatState
import dev.gemma4edge.ui.ChatTurn
import java.io.IOException

private const val LONGEST_ANSWER = 2048 // tokens

private class Attachment(val name: String, val media: Part.Media)

/** A conversation with the loaded model. */
class ChatController(private val shared: Shared, private val resolver: ContentResolver) : ChatEvents {
    private var conversation: Conversation? = null
    private var attachments = emptyList<Attachment>()
    private var recorder: Recorder? = null

    /** A model was loaded: its conversation begins. */
    fun begin(loaded: Loaded) {
        val dialogue = loaded.bundle.manifest.dialogue
        conversation = dialogue?.let(::Conversation)
        attachments = emptyList()
        change { if (dialogue == null) refused(loaded) else empty(loaded, dialogue) }
    }

    private fun empty(loaded: Loaded, dialogue: Dialogue): ChatState {
        val kinds = if (loaded.bundle.processor == null) emptySet() else dialogue.media.keys
        return ChatState(
            loaded.title,
            takesImages = MediaKind.IMAGE in kinds,
            takesAudio = MediaKind.AUDIO in kinds,
            memory = memory()
        )
    }

    /** Benchmark and self-test need no template. */
    private fun refused(loaded: Loaded): ChatState {
        val why = loaded.bundle.manifest.undescribed["all"].orEmpty()
        return ChatState(refusal = "The chat template of ${loaded.title} has no plain form: $why")
    }

    override fun send(text: String) {
        val talk = conversation ?: return
        val media = attachments
        val turn = talk.userTurn(text, media.map { it.media })
        say(talk, turn, ChatTurn(fromUser = true, text, attachments = media.map { it.name }))
    }

    override fun retry() {
        val talk = conversation ?: return
        val turn = talk.takeBack() ?: return
        val at = shared.state.value.chat.turns.indexOfLast { it.fromUser }
        val shown = shared.state.value.chat.turns[at]
        change { it.copy(turns = it.turns.take(at)) }
        say(talk, turn, shown)
    }

    override fun stop() {
        shared.loaded?.running?.stop()
    }

    override fun newChat() {
        shared.loaded?.let(::begin)
    }

    override fun think(on: Boolean) {
        conversation?.think = on
        change { it.copy(thinking = on) }
    }

    override fun pickImage() {
        shared.requests.tryEmit(Request.PickImage)
    }

    override fun takePhoto() {
        shared.requests.tryEmit(Request.TakePhoto)
    }

    override fun pickSound() {
        shared.requests.tryEmit(Request.PickSound)
    }

    override fun record(on: Boolean) {
        if (on) shared.requests.tryEmit(Request.AskForMicrophone) else recorder?.stop()
    }

    override fun dropAttachment(index: Int) = attach(attachments.filterIndexed { at, _ -> at != index })

    /** The user chose or took an image. */
    fun addImage(uri: Uri) = withModel { loaded ->
        val pixels = shared.onDisk { shared.images.read(uri, loaded.bundle.requireProcessor().imageProcessor) }
        attach(attachments + Attachment("Image, ${pixels.size.width} × ${pixels.size.height}", Part.Image(pixels)))
    }

    /** The user chose a file of sound. */
    fun addSound(uri: Uri) = withModel { loaded ->
        val sound = shared.onDisk {
            val input = resolver.openInputStream(uri) ?: throw IOException("the clip cannot be read: choose another")
            readWav(input.use { it.readBytes() })
        }
        add(sound, loaded)
    }

    /** The user allows the microphone. */
    fun startRecording() = withModel { loaded ->
        val made = Recorder(loaded.bundle.requireProcessor()).also { recorder = it }
        change { it.copy(recording = true) }
        try {
            add(shared.onDisk(made::record), loaded)
        } finally {
            change { it.copy(recording = false) }
        }
    }

    private fun add(sound: Sound, loaded: Loaded) {
        val frames = sound.frames(loaded.bundle.requireProcessor())
        attach(attachments + Attachment("Clip, %.1f s".format(sound.seconds), Part.Clip(frames)))
    }

    private fun attach(all: List<Attachment>) {
        attachments = all
        change { it.copy(attachments = all.map(Attachment::name)) }
    }

    private fun say(talk: Conversation, turn: Turn, shown: ChatTurn) = withModel { loaded ->
        val prompt = talk.say(turn)
        attach(emptyList())
        change { it.copy(writing = true, turns = it.turns + shown + ChatTurn(fromUser = false, "")) }
        try {
            answer(talk, loaded, prompt)
        } catch (error: Exception) { // told by whoever called; the turn can be said again
            talk.takeBack()
            change { it.copy(turns = it.turns.dropLast(2)) }
            throw error
        } finally {
            change { it.copy(writing = false, memory = memory()) }
        }
    }

    private suspend fun answer(talk: Conversation, loaded: Loaded, prompt: List<Segment>) {
        val sampling = loaded.bundle.manifest.sampling
        val answer = Answer(ReplyReader(loaded.bundle.tokenizer.specialMarks))
        val taken = shared.onEngine { loaded.engine().generate(prompt, sampling, LONGEST_ANSWER, answer::add) }
        answer.end(taken)
        talk.answered(answer.reply)
    }

    /** What comes from the engine's thread, on its way to the screen. */
    private inner class Answer(private val reader: ReplyReader) {
        var reply = Reply()
            private set

        fun add(text: String) = show(reader.add(text), "")

        fun end(taken: Generation) = show(reader.end(), tell(taken))

        private fun show(pieces: List<Piece>, stats: String) {
            reply += pieces
            val turn = ChatTurn(false, reply.text, reply.thoughts, reply.calls, stats = stats)
            change { it.copy(turns = it.turns.dropLast(1) + turn) }
        }
    }

    private fun tell(taken: Generation): String {
        val ended = when (taken.end) {
            End.MODEL -> ""
            End.USER -> ", stopped"
            End.LIMIT -> ", at the limit of $LONGEST_ANSWER tokens"
            End.CONTEXT -> ", the context is full"
        }
        return "first token after %.2f s, %d tokens, %.1f tokens/s%s"
            .format(taken.firstToken, taken.tokens, taken.rate, ended)
    }

    private fun memory() = gigabytes(ProcessMemory.now().total)

    private fun withModel(block: suspend (Loaded) -> Unit) {
        val loaded = shared.loaded ?: return shared.notice("Load a model first.")
        shared.launch { block(loaded) }
    }

    private fun change(how: (ChatState) -> ChatState) = shared.change { it.copy(chat = how(it.chat)) }
}
