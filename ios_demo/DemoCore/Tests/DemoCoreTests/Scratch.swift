import Foundation

@testable import DemoCore

/// A folder of a test's own, removed with it.
final class Scratch: Sendable {
  let url = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString)

  deinit {
    try? FileManager.default.removeItem(at: url)
  }

  func write(_ data: Data, to path: String) throws {
    let file = url.appending(path: path)
    try FileManager.default.createDirectory(at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
    try data.write(to: file)
  }
}

/// The vectors' smallest good manifest, with other files.
func manifestData(files: [String: Data]) throws -> Data {
  var facts = try Vectors.manifest()
  facts["files"] = .array(
    files.sorted { $0.key < $1.key }.map { path, data in
      var checksum = Checksum()
      checksum.update(data)
      return ["path": .string(path), "size": .number(Double(data.count)), "sha256": .string(checksum.finish())]
    })
  return try JSONEncoder().encode(facts)
}
