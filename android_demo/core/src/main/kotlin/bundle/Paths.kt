package dev.gemma4edge.core.bundle

import java.io.File

/**
 * The file called [name] in [folder], which need not be there.
 *
 * @throws BundleException the name is absolute or leads out of the folder, by `..` or by a link.
 */
fun requireInside(folder: File, name: String): File {
    requirePlain(name)
    val file = File(folder, name)
    if (!file.canonicalFile.startsWith(folder.canonicalFile)) {
        throw BundleException("$name is a link out of the bundle: put the file itself there")
    }
    return file
}

/** Relative, with forward slashes, and no higher than where it starts. */
internal fun requirePlain(name: String) {
    val parts = name.split('/').filterNot { it.isEmpty() || it == "." }
    val printable = name.none { it.isISOControl() || it == '\u2028' || it == '\u2029' }
    if (parts.isEmpty() || name.startsWith('/') || '\\' in name || ".." in parts || !printable) {
        throw BundleException("'${name.filterNot(Char::isISOControl)}' is no path inside the bundle: export it again")
    }
}
