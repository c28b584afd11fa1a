/// Tokens to text as they come. Characters that the vocabulary lacks are written byte by byte, `<0xE2>`, and are held
/// back until they are whole. As the decoder of `tokenizer.json`: Replace, ByteFallback, Fuse.
public struct Detokenizer: Sendable {
  private var pending: [UInt8] = []

  public init() {}

  /// What a token adds, nothing while a character is incomplete.
  ///
  /// - Parameter token: as the vocabulary writes it.
  public mutating func add(_ token: String) -> String {
    guard let byte = byteValue(token) else {
      return flush() + token.replacing("\u{2581}", with: " ")
    }
    pending.append(byte)
    guard let text = String(validating: pending, as: UTF8.self) else { return "" }
    pending = []
    return text
  }

  /// What is left of an incomplete character: a replacement character for each byte.
  public mutating func flush() -> String {
    defer { pending = [] }
    return String(repeating: "\u{FFFD}", count: pending.count)
  }
}

/// Of `<0x0A>`; nil for any other token.
private func byteValue(_ token: String) -> UInt8? {
  guard token.utf8.count == 6, token.hasPrefix("<0x"), token.hasSuffix(">") else { return nil }
  return UInt8(token.dropFirst(3).dropLast(), radix: 16)
}
