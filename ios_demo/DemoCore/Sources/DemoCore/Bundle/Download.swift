import Foundation

/// Bytes of one file from somewhere.
public protocol Transport: Sendable {
  /// - Parameters:
  ///   - path: relative to the bundle.
  ///   - offset: bytes that are there already.
  func fetch(_ path: String, from offset: Int) async throws -> Answer
}

/// What a transport brings.
public struct Answer: Sendable {
  /// Where it begins: 0 where a server does not know ranges, or not this one.
  public let offset: Int
  /// From there on.
  public let bytes: AsyncThrowingStream<Data, any Error>

  public init(offset: Int, bytes: AsyncThrowingStream<Data, any Error>) {
    self.offset = offset
    self.bytes = bytes
  }
}

/// Fetches a bundle into a folder: file by file, into a temporary name, renamed once the sha256 is right. What is there
/// with the right sha256 is kept, and the manifest comes last, so that a folder with one is whole.
public struct Download: Sendable {
  public let files: BundleFiles
  private let transport: any Transport

  public init(into folder: URL, by transport: any Transport) {
    files = BundleFiles(folder: folder)
    self.transport = transport
  }

  /// - Parameter progress: told how many bytes are there, of how many.
  /// - Throws: `UserError` if a file arrives damaged; what the transport throws; `CancellationError`.
  public func run(progress: @Sendable (Int, Int) -> Void) async throws -> Manifest {
    let written = try await fetchManifest()
    let manifest = try ManifestReader.decode(written)
    let total = manifest.files.reduce(0) { $0 + $1.size }
    var done = 0
    try removeManifest()
    for file in manifest.files {
      if try !files.holds(file) { try await fetch(file) { progress(done + $0, total) } }
      done += file.size
      progress(done, total)
    }
    try written.write(to: manifestPath, options: .atomic)
    return manifest
  }

  private var manifestPath: URL { files.folder.appending(path: ManifestReader.file) }

  /// Of an older bundle of this name, which is none any more once its first file is replaced.
  private func removeManifest() throws {
    guard FileManager.default.fileExists(atPath: manifestPath.path) else { return }
    try FileManager.default.removeItem(at: manifestPath)
  }

  private func fetchManifest() async throws -> Data {
    var written = Data()
    for try await data in try await transport.fetch(ManifestReader.file, from: 0).bytes {
      written += data
      guard written.count <= ManifestReader.largest else { break }
    }
    return written
  }

  private func fetch(_ file: File, progress: (Int) -> Void) async throws {
    let partial = files.partial(file)
    try prepare(partial, for: file)
    if files.size(partial) < file.size { try await append(file, to: partial, progress: progress) }
    guard files.size(partial) >= file.size else {
      throw UserError("\(file.path) was cut short: start the download again, it goes on from there")
    }
    guard try Checksum.of(partial) == file.sha256 else {
      try FileManager.default.removeItem(at: partial)
      throw UserError("\(file.path) arrived damaged: start the download again, it begins anew with this file")
    }
    try? FileManager.default.removeItem(at: files.path(file))
    try FileManager.default.moveItem(at: partial, to: files.path(file))
  }

  /// What is longer than the file cannot be its beginning.
  private func prepare(_ partial: URL, for file: File) throws {
    let folder = partial.deletingLastPathComponent()
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    if !FileManager.default.fileExists(atPath: partial.path) || files.size(partial) > file.size {
      try Data().write(to: partial)
    }
  }

  private func append(_ file: File, to partial: URL, progress: (Int) -> Void) async throws {
    let answer = try await transport.fetch(file.path, from: files.size(partial))
    let handle = try FileHandle(forWritingTo: partial)
    defer { try? handle.close() }
    try handle.truncate(atOffset: UInt64(answer.offset))
    var size = try Int(handle.seekToEnd())
    for try await data in answer.bytes {
      try Task.checkCancellation()
      try handle.write(contentsOf: data)
      size += data.count
      progress(size)
      guard size <= file.size else { break }
    }
  }
}
