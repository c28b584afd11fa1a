package dev.gemma4edge.core.session

/**
 * Whether an encoder takes an image of so many soft tokens along its longer side.
 *
 * @throws IllegalArgumentException it takes [longest] at most.
 */
fun requireSide(side: Int, longest: Int) =
    require(side <= longest) { "an image of $side soft tokens along a side is too long, $longest fit: crop it" }

/**
 * Cuts a prompt into steps of at most [longest] positions, none of them inside an image.
 *
 * @param inside which positions are an image's.
 * @throws IllegalArgumentException an image is longer than a step.
 */
fun steps(inside: BooleanArray, longest: Int): List<IntRange> {
    val found = ArrayList<IntRange>()
    var start = 0
    while (start < inside.size) {
        var stop = minOf(start + longest, inside.size)
        while (stop in start + 1 until inside.size && inside[stop] && inside[stop - 1]) stop--
        require(stop > start) { "an image takes more than the $longest positions of a step: use a smaller one" }
        found += start until stop
        start = stop
    }
    return found
}
