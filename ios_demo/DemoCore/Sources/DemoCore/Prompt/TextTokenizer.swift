/// The bundle's `tokenizer.json`.
public protocol TextTokenizer: Sendable {
  /// Special tokens among the text become theirs, and none is added: the prompt has its own.
  func encode(_ text: String) -> [Int]

  /// As the vocabulary writes it.
  func token(_ id: Int) -> String

  /// Whether it is no text.
  func isSpecial(_ id: Int) -> Bool
}

extension TextTokenizer {
  /// With special tokens, as a prompt has them.
  func decode(_ ids: [Int]) -> String {
    var detokenizer = Detokenizer()
    return ids.map { detokenizer.add(token($0)) }.joined() + detokenizer.flush()
  }
}
