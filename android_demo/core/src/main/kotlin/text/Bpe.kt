package dev.gemma4edge.core.text

import java.util.PriorityQueue

/** Byte-pair merges over ids: neighbours that have the lowest rank are joined first, the left ones of equal rank before. */
internal class Bpe(merges: List<Triple<Int, Int, Int>>) {
    private class Merge(val rank: Int, val id: Int)

    private class Candidate(val rank: Int, val at: Int, val left: Int, val right: Int, val id: Int)

    private val merges = HashMap<Long, Merge>(merges.size * 2)

    init {
        merges.forEachIndexed { rank, (left, right, id) -> this.merges.putIfAbsent(pair(left, right), Merge(rank, id)) }
    }

    /** [symbols] with everything merged that can be. */
    fun merge(symbols: IntArray): IntArray {
        val ids = symbols.copyOf()
        val next = IntArray(ids.size) { if (it + 1 < ids.size) it + 1 else NONE }
        val previous = IntArray(ids.size) { it - 1 }
        val queue = PriorityQueue<Candidate>(compareBy({ it.rank }, { it.at }))

        fun offer(at: Int) {
            val right = if (at == NONE) NONE else next[at]
            if (right == NONE) return
            merges[pair(ids[at], ids[right])]?.let { queue += Candidate(it.rank, at, ids[at], ids[right], it.id) }
        }

        ids.indices.forEach(::offer)
        while (true) {
            val best = queue.poll() ?: break
            val right = next[best.at]
            if (right == NONE || ids[best.at] != best.left || ids[right] != best.right) continue // merged meanwhile
            ids[best.at] = best.id
            ids[right] = NONE
            next[best.at] = next[right]
            if (next[right] != NONE) previous[next[right]] = best.at
            next[right] = NONE
            offer(previous[best.at])
            offer(best.at)
        }
        return ids.filter { it != NONE }.toIntArray()
    }

    private fun pair(left: Int, right: Int) = (left.toLong() shl 32) or right.toLong()

    private companion object {
        const val NONE = -1
    }
}
