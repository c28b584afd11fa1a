import Foundation

@testable import DemoCore

/// What Python wrote for all apps to agree with: `python -m tests.vectors FOLDER`, and VECTORS names the folder.
enum Vectors {
  /// One topic's file.
  static func read<Topic: Decodable>(_ topic: String, as type: Topic.Type = Topic.self) -> Topic {
    guard let folder = ProcessInfo.processInfo.environment["VECTORS"] else {
      fatalError("VECTORS names no folder: run `make test-ios`")
    }
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    do {
      return try decoder.decode(type, from: Data(contentsOf: URL(filePath: folder).appending(path: "\(topic).json")))
    } catch {
      fatalError("\(topic).json is not what these tests read: \(error)")
    }
  }

  /// Of the embedded model, by id; and which of its tokens are no text.
  static let tokenizer: (tokens: [Int: String], special: Set<Int>) = {
    struct File: Decodable {
      struct Model: Decodable { let vocab: [String: Int] }
      struct Added: Decodable {
        let id: Int
        let special: Bool
      }
      let model: Model
      let addedTokens: [Added]
    }
    var root = URL(filePath: #filePath)
    for _ in 0..<5 { root.deleteLastPathComponent() }
    let path = root.appending(path: "export/tiny/checkpoint/tokenizer.json")
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    guard let data = try? Data(contentsOf: path), let file = try? decoder.decode(File.self, from: data) else {
      fatalError("\(path.path) does not open")
    }
    let tokens = Dictionary(uniqueKeysWithValues: file.model.vocab.map { ($0.value, $0.key) })
    return (tokens, Set(file.addedTokens.filter(\.special).map(\.id)))
  }()
}

/// Equal but for rounding.
func isClose(_ a: Double, _ b: Double, within tolerance: Double = 1e-9) -> Bool {
  abs(a - b) <= tolerance * max(1, abs(a), abs(b))
}
