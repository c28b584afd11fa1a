import Foundation

/// Which files of a bundle lie in a folder.
public struct BundleFiles: Sendable {
  public let folder: URL

  public init(folder: URL) {
    self.folder = folder
  }

  public func path(_ file: File) -> URL {
    folder.appending(path: file.path)
  }

  /// Where a file lies until it is whole.
  func partial(_ file: File) -> URL {
    folder.appending(path: file.path + ".partial")
  }

  /// Bytes, 0 where there is none.
  func size(_ path: URL) -> Int {
    let attributes = try? FileManager.default.attributesOfItem(atPath: path.path)
    return attributes?[.size] as? Int ?? 0
  }

  /// Those whose size is not the manifest's. Files get their names only once their sha256 is right.
  public func missing(_ manifest: Manifest) -> [File] {
    manifest.files.filter { !hasSize($0) }
  }

  /// Whether a file is what the manifest says, byte by byte: weights of another export often have the same size.
  func holds(_ file: File) throws -> Bool {
    try hasSize(file) && Checksum.of(path(file)) == file.sha256
  }

  private func hasSize(_ file: File) -> Bool {
    size(path(file)) == file.size && FileManager.default.fileExists(atPath: path(file).path)
  }

  /// Reads every byte.
  ///
  /// - Parameter progress: told after each file how many bytes were read of all.
  /// - Throws: `UserError` naming the first file that is missing or differs; `CancellationError`.
  public func verify(_ manifest: Manifest, progress: @Sendable (Int) -> Void = { _ in }) throws {
    if let file = missing(manifest).first {
      throw UserError("\(file.path) is missing or cut short: download or copy the bundle again")
    }
    var read = 0
    for file in manifest.files {
      guard try Checksum.of(path(file)) == file.sha256 else {
        throw UserError("\(file.path) has another sha256 than the manifest says: download or copy the bundle again")
      }
      read += file.size
      progress(read)
    }
  }
}
