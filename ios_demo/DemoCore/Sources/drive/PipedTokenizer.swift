import DemoCore
import Foundation

/// The bundle's vocabulary; whoever runs the packages cuts text into tokens, too.
struct PipedTokenizer: TextTokenizer {
  private struct File: Decodable {
    struct Model: Decodable {
      let vocab: [String: Int]
    }

    struct Added: Decodable {
      let id: Int
      let special: Bool
    }

    let model: Model
    let addedTokens: [Added]
  }

  private let tokens: [Int: String]
  private let special: Set<Int>
  private let pipe: Pipe

  init(bundle: URL, pipe: Pipe) throws {
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    let file = try decoder.decode(File.self, from: Data(contentsOf: bundle.appending(path: "tokenizer.json")))
    tokens = Dictionary(uniqueKeysWithValues: file.model.vocab.map { ($0.value, $0.key) })
    special = Set(file.addedTokens.filter(\.special).map(\.id))
    self.pipe = pipe
  }

  func encode(_ text: String) -> [Int] {
    (try? pipe.encode(text)) ?? []
  }

  func token(_ id: Int) -> String {
    tokens[id] ?? ""
  }

  func isSpecial(_ id: Int) -> Bool {
    special.contains(id)
  }
}
