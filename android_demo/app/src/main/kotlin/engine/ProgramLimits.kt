package dev.gemma4edge.app.engine

import java.io.File
import org.pytorch.executorch.Module

/**
 * What the methods of a `.pte` were planned for, as it says itself.
 *
 * @property context positions of a sequence, [step] of them in one call, [imageSide] soft tokens along an image.
 */
internal class ProgramLimits private constructor(val context: Int, val step: Int, val imageSide: Int) {
    companion object {
        fun of(module: Module): ProgramLimits = asking {
            fun constant(name: String) = module.execute(name)[0].toInt().toInt()

            ProgramLimits(constant("get_max_context_len"), constant("get_max_step"), constant("get_max_image_side"))
        }

        /** Without loading a method that has weights. */
        fun of(bundle: File): ProgramLimits = openProgram(bundle).use(::of)
    }
}

/** The program of a bundle, mapped; its methods load when they are first called. */
internal fun openProgram(bundle: File): Module = asking { Module.load(programFile(bundle).path, Module.LOAD_MODE_MMAP) }

internal fun programFile(bundle: File) = File(bundle, "executorch/model.pte")
