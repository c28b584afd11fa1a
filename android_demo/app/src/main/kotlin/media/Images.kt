package dev.gemma4edge.app.media

import android.content.ContentResolver
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.Matrix
import android.media.ExifInterface
import android.net.Uri
import dev.gemma4edge.core.media.ImageProcessor
import dev.gemma4edge.core.media.ImageSize
import dev.gemma4edge.core.media.Picture
import dev.gemma4edge.core.media.Pixels
import dev.gemma4edge.core.media.targetSize
import java.io.File
import java.io.IOException

/**
 * Longest side, in pixels, that is decoded; of a longer one a half, a quarter and so on. The model sees fewer, and a
 * photo of 48 megapixels would take 192 MB, and as much again to be turned.
 */
private const val LONGEST = 4096

/** What turns an image upright, by the EXIF orientation that it was stored with. */
private val TURNS: Map<Int, Matrix.() -> Unit> = mapOf(
    ExifInterface.ORIENTATION_FLIP_HORIZONTAL to { setScale(-1f, 1f) },
    ExifInterface.ORIENTATION_ROTATE_180 to { setRotate(180f) },
    ExifInterface.ORIENTATION_FLIP_VERTICAL to { setScale(1f, -1f) },
    ExifInterface.ORIENTATION_TRANSPOSE to {
        setRotate(90f)
        postScale(-1f, 1f)
    },
    ExifInterface.ORIENTATION_ROTATE_90 to { setRotate(90f) },
    ExifInterface.ORIENTATION_TRANSVERSE to {
        setRotate(270f)
        postScale(-1f, 1f)
    },
    ExifInterface.ORIENTATION_ROTATE_270 to { setRotate(270f) }
)

/** Images in the size that the model takes, turned upright. */
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
        val longest = maxOf(options.outWidth, options.outHeight)
        options.inSampleSize = generateSequence(1) { 2 * it }.first { longest <= it * LONGEST }
        options.inJustDecodeBounds = false
        return BitmapFactory.decodeFile(file.path, options) ?: throw IOException("this is no image: choose another")
    }

    private fun upright(bitmap: Bitmap, file: File): Bitmap {
        val exif = ExifInterface(file.path)
        val orientation = exif.getAttributeInt(ExifInterface.TAG_ORIENTATION, ExifInterface.ORIENTATION_NORMAL)
        val turn = Matrix().apply(TURNS[orientation] ?: return bitmap)
        return Bitmap.createBitmap(bitmap, 0, 0, bitmap.width, bitmap.height, turn, true)
    }

    private fun pixels(bitmap: Bitmap, processor: ImageProcessor): Pixels {
        val size = ImageSize(bitmap.width, bitmap.height)
        val argb = IntArray(size.width * size.height)
        bitmap.getPixels(argb, 0, size.width, 0, 0, size.width, size.height)
        return Pixels.of(Picture(size, argb).resized(targetSize(size, processor)))
    }
}
