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

/// A good manifest of the vectors with other files.
func manifestData(files: [String: Data]) throws -> Data {
  try manifestData(
    entries: files.sorted { $0.key < $1.key }.map { path, data in
      var checksum = Checksum()
      checksum.update(data)
      return (path, data.count, checksum.finish())
    })
}

func manifestData(entries: [(path: String, size: Int, sha256: String)]) throws -> Data {
  let text = ManifestTests.topic.good.first?.text ?? ""
  var facts = try JSONDecoder().decode([String: JSONValue].self, from: Data(text.utf8))
  facts["files"] = .array(
    entries.map { ["path": .string($0.path), "size": .number(Double($0.size)), "sha256": .string($0.sha256)] })
  return try JSONEncoder().encode(facts)
}
