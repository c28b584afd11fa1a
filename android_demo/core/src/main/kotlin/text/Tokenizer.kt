package dev.gemma4edge.core.text

import dev.gemma4edge.core.bundle.BundleException
import java.io.File

/**
 * Gemma's tokenizer, from the `tokenizer.json` of a bundle: spaces become `▁`, characters that the vocabulary lacks their
 * UTF-8 bytes, then byte-pair merges. Marks such as `<|turn>` are tokens of their own.
 */
class Tokenizer private constructor(file: TokenizerFile) {
    private val ids = file.model.vocab
    private val pieces = arrayOfNulls<String>((ids.values + file.addedTokens.map { it.id }).max() + 1)
    private val marks = file.addedTokens.associate { it.content to it.id }
    private val marksByStart = file.addedTokens.map {
        it.content
    }.sortedByDescending { it.length }.groupBy { it.first() }
    private val specials = file.addedTokens.filter { it.special }.mapTo(HashSet()) { it.id }
    private val unknown = file.model.unknown?.let(ids::get)
    private val bpe: Bpe

    init {
        ids.forEach { (piece, id) -> pieces[id] = piece }
        marks.forEach { (mark, id) -> pieces[id] = mark }
        bpe =
            Bpe(
                file.model.merges.map { (left, right) ->
                    Triple(ids.getValue(left), ids.getValue(right), ids.getValue(left + right))
                }
            )
    }

    /** How many ids there are. */
    val size: Int get() = pieces.size

    /** [text] to ids, without a BOS that it does not spell. */
    fun encode(text: String): IntArray {
        val found = ArrayList<Int>()
        var start = 0
        var at = 0
        while (at < text.length) {
            val mark = marksByStart[text[at]]?.firstOrNull { text.startsWith(it, at) }
            if (mark == null) {
                at++
                continue
            }
            found += encodePlain(text.substring(start, at))
            found += marks.getValue(mark)
            at += mark.length
            start = at
        }
        found += encodePlain(text.substring(start))
        return found.toIntArray()
    }

    /** The id of a mark, or of a piece as the vocabulary has it. */
    fun id(piece: String): Int = marks[piece] ?: ids.getValue(piece)

    /** Names of the marks that stand for no text. */
    val specialMarks: Set<String> get() = specials.mapTo(HashSet(), ::piece)

    /** A token as text by itself: a mark by its name, a part of a character as U+FFFD. */
    fun spell(id: Int): String = if (isSpecial(id)) piece(id) else String(bytes(id))

    /** Whether an id is a mark that stands for no text. */
    fun isSpecial(id: Int): Boolean = id in specials

    /** Whether an id is a byte of a character that the vocabulary lacks. */
    fun isByte(id: Int): Boolean = BYTE.matches(piece(id))

    /** As the vocabulary has it: a mark's own spelling, `▁` for spaces. */
    fun piece(id: Int): String = pieces[id] ?: throw IllegalArgumentException("there is no token $id")

    /** The UTF-8 of a token; of some, only a part of a character. */
    fun bytes(id: Int): ByteArray {
        val piece = piece(id)
        val byte = BYTE.matchEntire(piece)
        return byte?.let { byteArrayOf(it.groupValues[1].toInt(16).toByte()) }
            ?: piece.replace(SPACE, ' ').toByteArray()
    }

    private fun encodePlain(text: String): List<Int> {
        if (text.isEmpty()) return emptyList()
        val symbols = ArrayList<Int>(text.length)
        text.replace(' ', SPACE).codePoints().forEach { symbols += symbolsOf(String(Character.toChars(it))) }
        return bpe.merge(symbols.toIntArray()).asList()
    }

    private fun symbolsOf(character: String): List<Int> = ids[character]?.let(::listOf)
        ?: character.toByteArray().toList().mapNotNull { ids["<0x%02X>".format(it)] ?: unknown }

    companion object {
        private const val SPACE = '▁'
        private val BYTE = Regex("<0x([0-9A-F]{2})>")

        /**
         * @throws BundleException the file is damaged, or a tokenizer of another kind.
         */
        fun read(file: File): Tokenizer = try {
            Tokenizer(readTokenizerFile(file))
        } catch (error: RuntimeException) { // not JSON, keys missing, merges of pieces that there are none of
            val reason = error.message?.lineSequence()?.first()
            throw BundleException("$file is no tokenizer of Gemma's ($reason): copy the bundle again", error)
        }
    }
}
