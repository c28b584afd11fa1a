package dev.gemma4edge.core.prompt

import dev.gemma4edge.core.bundle.Dialogue
import dev.gemma4edge.core.session.ModelInputs
import dev.gemma4edge.core.text.Tokenizer

private const val NO_MEDIA = "this model takes text alone"

/** A prompt as engines take it: text with the marks of media written out, and media between them. */
sealed interface Segment {
    data class Text(val text: String) : Segment

    data class Image(val image: Part.Image) : Segment

    data class Clip(val clip: Part.Clip) : Segment
}

/**
 * [text] cut at its placeholders, where [media] stand.
 *
 * @throws IllegalArgumentException there are more or fewer placeholders, as somebody wrote one.
 */
fun cutAtMedia(dialogue: Dialogue, text: String, media: List<Part.Media>): List<Segment> {
    val segments = ArrayList<Segment>()
    var rest = text
    var before = ""
    for (medium in media) {
        val marks = dialogue.marksOf(medium)
        require(marks.placeholder in rest) { "a medium has no place in the prompt" }
        segments += Segment.Text(before + rest.substringBefore(marks.placeholder) + marks.begin)
        segments += if (medium is Part.Image) Segment.Image(medium) else Segment.Clip(medium as Part.Clip)
        rest = rest.substringAfter(marks.placeholder)
        before = marks.end
    }
    val written = dialogue.media.values.map { it.placeholder }.firstOrNull { it in rest }
    require(written == null) { "leave out the mark $written, which stands for an image or a clip" }
    return segments + Segment.Text(before + rest)
}

/**
 * The same as ids, one placeholder for each soft token.
 *
 * @param dialogue and [cell], pixels along the side of an image's soft token, are for media: text needs neither.
 */
fun modelInputs(dialogue: Dialogue?, tokenizer: Tokenizer, cell: Int?, segments: List<Segment>): ModelInputs {
    fun soft(medium: Part.Media) = tokenizer.id(requireNotNull(dialogue) { NO_MEDIA }.marksOf(medium).soft)

    val images = segments.filterIsInstance<Segment.Image>().map {
        it.image.pixels.cut(requireNotNull(cell) { NO_MEDIA })
    }
    val clips = segments.filterIsInstance<Segment.Clip>().map { it.clip.frames }
    val counts = (images.map { it.count }.iterator() to clips.map { it.count }.iterator())
    val ids = segments.flatMap { segment ->
        when (segment) {
            is Segment.Text -> tokenizer.encode(segment.text).asList()
            is Segment.Image -> soft(segment.image).let { id -> List(counts.first.next()) { id } }
            is Segment.Clip -> soft(segment.clip).let { id -> List(counts.second.next()) { id } }
        }
    }
    return ModelInputs(ids.toIntArray(), images, clips)
}
