/// What a model writes is told apart as it comes: thoughts, tool calls, and the answer itself.
public struct Piece: Sendable, Equatable {
  public enum Kind: String, Sendable, Codable {
    case text, thought, call
  }

  public let kind: Kind
  /// Whole characters; empty where a mark opens or closes a kind, which tells two calls in a row apart.
  public let text: String

  public init(_ kind: Kind, _ text: String) {
    self.kind = kind
    self.text = text
  }
}

/// Tokens in, pieces out.
public struct ReplyReader: Sendable {
  static let quote = "<|\"|>"
  private static let opens: [String: Piece.Kind] = ["<|channel>": .thought, "<|tool_call>": .call]
  private static let closes: Set = ["<channel|>", "<tool_call|>"]

  private var kind = Piece.Kind.text
  private var detokenizer = Detokenizer()

  public init() {}

  /// Marks open and close a kind; other special tokens say nothing.
  ///
  /// - Parameters:
  ///   - token: as the vocabulary writes it.
  ///   - special: whether the tokenizer says that it is no text.
  public mutating func add(_ token: String, special: Bool) -> Piece? {
    if let next = Self.opens[token] ?? (Self.closes.contains(token) ? .text : nil) {
      kind = next
      detokenizer = Detokenizer()
      return Piece(kind, "")
    }
    guard !special || token == Self.quote else { return nil }
    let text = detokenizer.add(token)
    return text.isEmpty ? nil : Piece(kind, text)
  }
}

/// A turn of the model's, as far as it has come.
public struct Reply: Sendable, Equatable {
  public var pieces: [Piece]

  public init(_ pieces: [Piece] = []) {
    self.pieces = pieces
  }

  public var text: String { of(.text) }
  public var thoughts: String { of(.thought) }

  /// Each as the model wrote it, `call:NAME{...}`.
  public var calls: [String] {
    pieces.reduce(into: []) { found, piece in
      guard piece.kind == .call else { return }
      if piece.text.isEmpty { found.append("") } else { found[found.count - 1] += piece.text }
    }
  }

  private func of(_ kind: Piece.Kind) -> String {
    pieces.filter { $0.kind == kind }.map(\.text).joined()
  }
}
