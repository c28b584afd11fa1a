import DemoCore
import Foundation

/// A bundle on this device.
struct StoredBundle: Identifiable, Sendable, Hashable {
  let folder: URL
  let manifest: Manifest

  var id: URL { folder }
  var name: String { folder.lastPathComponent }
  var bytes: Int { manifest.files.reduce(0) { $0 + $1.size } }

  static func == (a: StoredBundle, b: StoredBundle) -> Bool { a.folder == b.folder }
  func hash(into hasher: inout Hasher) { hasher.combine(folder) }
}

extension URL {
  /// Gigabytes that can be had again are not to go into the user's backup.
  func excludeFromBackup() throws {
    var values = URLResourceValues()
    values.isExcludedFromBackup = true
    var copy = self
    try copy.setResourceValues(values)
  }
}
