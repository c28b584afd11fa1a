package dev.gemma4edge.app.media

import android.content.ContentResolver
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.Matrix
import android.media.ExifInterface
import android.net.Uri
import dev.gemma4edge.core.media.ImageProcessor
import dev.gemma4edge.core.media.ImageSize
import dev.gemma4edge.core.media.Pixels
import dev.gemma4edge.core.media.targetSize
import java.io.File
import java.io.IOException

/** Longest side, in pixels, that is decoded: the model sees fewer. */
private const val LONGEST = 4096

/**
 * Images in the size that the model takes, turned upright.
 *
 * Android scales with bilinear filtering where the checkpoint's processor is bicubic, so pixels differ a little.
 */
class Images(private val resolver: ContentResolver, private val scratch: File) {
    /** @throws IOException there is no image. */
    fun read(uri: Uri, processor: ImageProcessor): Pixels {
        val file = File.createTempFile("image", null, scratch) // read twice: its size, then itself
        try {
            val input = resolver.openInputStream(uri) ?: throw IOException("the image cannot be read: choose another")
            input.use { from -> file.outputStream().use { from.copyTo(it) } }
            return pixels(upright(decode(file), file), processor)
        } finally {
            file.delete()
        }
    }

    private fun decode(file: File): Bitmap {
        val options = BitmapFactory.Options().apply { inJustDecodeBounds = true }
        BitmapFactory.decodeFile(file.path, options)
        options.inSampleSize =
            Integer.highestOneBit((maxOf(options.outWidth, options.outHeight) / LONGEST).coerceAtLeast(1))
        options.inJustDecodeBounds = false
        return BitmapFactory.decodeFile(file.path, options) ?: throw IOException("this is no image: choose another")
    }

    private fun upright(bitmap: Bitmap, file: File): Bitmap {
        val turn = Matrix()
        when (
            ExifInterface(
                file.path
            ).getAttributeInt(ExifInterface.TAG_ORIENTATION, ExifInterface.ORIENTATION_NORMAL)
        ) {
            ExifInterface.ORIENTATION_ROTATE_90 -> turn.postRotate(90f)
            ExifInterface.ORIENTATION_ROTATE_180 -> turn.postRotate(180f)
            ExifInterface.ORIENTATION_ROTATE_270 -> turn.postRotate(270f)
            ExifInterface.ORIENTATION_FLIP_HORIZONTAL -> turn.postScale(-1f, 1f)
            else -> return bitmap
        }
        return Bitmap.createBitmap(bitmap, 0, 0, bitmap.width, bitmap.height, turn, true)
    }

    private fun pixels(bitmap: Bitmap, processor: ImageProcessor): Pixels {
        val size = targetSize(ImageSize(bitmap.width, bitmap.height), processor)
        val scaled = Bitmap.createScaledBitmap(bitmap, size.width, size.height, true)
        val argb = IntArray(size.width * size.height)
        scaled.getPixels(argb, 0, size.width, 0, 0, size.width, size.height)
        return Pixels.of(size, argb)
    }
}
