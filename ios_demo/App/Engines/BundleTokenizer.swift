import DemoCore
import Foundation
import Tokenizers

/// The bundle's `tokenizer.json` by swift-transformers.
struct BundleTokenizer: TextTokenizer {
  private struct File: Decodable {
    struct Added: Decodable {
      let id: Int
      let special: Bool
    }

    let addedTokens: [Added]
  }

  private let tokenizer: any Tokenizer
  private let special: Set<Int>

  /// - Throws: what the package throws for a tokenizer that it does not know.
  init(bundle: URL) async throws {
    tokenizer = try await AutoTokenizer.from(modelFolder: bundle)
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    let file = try decoder.decode(File.self, from: Data(contentsOf: bundle.appending(path: "tokenizer.json")))
    special = Set(file.addedTokens.filter(\.special).map(\.id))
  }

  func encode(_ text: String) -> [Int] {
    tokenizer.encode(text: text, addSpecialTokens: false)
  }

  func token(_ id: Int) -> String {
    tokenizer.convertIdToToken(id) ?? ""
  }

  func isSpecial(_ id: Int) -> Bool {
    special.contains(id)
  }
}
