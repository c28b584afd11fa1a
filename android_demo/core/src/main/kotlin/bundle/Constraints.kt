package dev.gemma4edge.core.bundle

private const val LARGEST = 1L shl 53 // that every JSON reader holds exactly

internal fun requireCount(name: String, value: Long) =
    require(value in 0 until LARGEST) { "$name: $value is not between 0 and 2^53" }

internal fun requirePositive(name: String, value: Long) =
    require(value in 1 until LARGEST) { "$name: $value is not between 1 and 2^53" }

internal fun requireOneOf(name: String, value: Int, vararg allowed: Int) =
    require(value in allowed) { "$name: $value is none of ${allowed.joinToString()}" }
