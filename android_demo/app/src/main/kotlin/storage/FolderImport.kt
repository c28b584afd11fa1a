package dev.gemma4edge.app.storage

import android.content.ContentResolver
import android.net.Uri
import android.provider.DocumentsContract
import android.provider.DocumentsContract.Document
import java.io.File
import java.io.IOException

private class Entry(val uri: Uri, val name: String, val isFolder: Boolean)

/** Copies a folder that the user chose, from any provider of documents, beside its target and renames it. */
class FolderImport(private val resolver: ContentResolver, private val told: (String) -> Unit) {
    /**
     * @param tree from the system's folder picker.
     * @param parent folder that the copy goes into, under its own name.
     */
    fun copy(tree: Uri, parent: File): File {
        val root = DocumentsContract.buildDocumentUriUsingTree(tree, DocumentsContract.getTreeDocumentId(tree))
        val name = name(root)
        val partial = File(parent, ".$name.import")
        partial.deleteRecursively()
        copyFolder(root, partial)
        val target = File(parent, name)
        if (target.exists() && !target.deleteRecursively()) throw IOException("$name is in use: close it first")
        if (!partial.renameTo(target)) throw IOException("$name cannot be put in place: is there room?")
        return target
    }

    private fun copyFolder(folder: Uri, target: File) {
        if (!target.mkdirs()) throw IOException("${target.name} cannot be made: is there room?")
        for (entry in entries(folder)) {
            val to = File(target, File(entry.name).name) // a provider's names must not lead elsewhere
            if (entry.isFolder) copyFolder(entry.uri, to) else copyFile(entry, to)
        }
    }

    private fun copyFile(entry: Entry, target: File) {
        told(entry.name)
        val input = resolver.openInputStream(entry.uri) ?: throw IOException("${entry.name} cannot be read")
        input.use { from -> target.outputStream().use { from.copyTo(it, bufferSize = 1 shl 20) } }
    }

    private fun entries(folder: Uri): List<Entry> {
        val id = DocumentsContract.getDocumentId(folder)
        return query(DocumentsContract.buildChildDocumentsUriUsingTree(folder, id)) { childId, name, isFolder ->
            Entry(DocumentsContract.buildDocumentUriUsingTree(folder, childId), name, isFolder)
        }
    }

    private fun name(document: Uri): String = query(document) { _, name, _ -> name }.first()

    private fun <T> query(uri: Uri, row: (String, String, Boolean) -> T): List<T> {
        val columns = arrayOf(Document.COLUMN_DOCUMENT_ID, Document.COLUMN_DISPLAY_NAME, Document.COLUMN_MIME_TYPE)
        val cursor = resolver.query(uri, columns, null, null, null) ?: throw IOException("$uri cannot be read")
        return cursor.use {
            val rows = ArrayList<T>()
            while (it.moveToNext()) {
                rows += row(it.getString(0), it.getString(1), it.getString(2) == Document.MIME_TYPE_DIR)
            }
            rows
        }
    }
}
