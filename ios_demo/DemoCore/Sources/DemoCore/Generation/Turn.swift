/// An answer, and what it took.
public struct Turn: Sendable, Equatable {
  /// Why it ended.
  public enum Ending: String, Sendable {
    case model, limit, context, user
  }

  public var reply = Reply()
  public private(set) var tokens: [Int] = []
  /// Positions.
  public let prefilled: Int
  /// Seconds to the first token.
  public private(set) var first = 0.0
  /// Seconds for the others.
  public private(set) var decoding = 0.0
  public var ending: Ending?

  public init(prefilled: Int) {
    self.prefilled = prefilled
  }

  /// - Parameter seconds: since the question.
  mutating func add(_ token: Int, at seconds: Double) {
    if tokens.isEmpty { first = seconds } else { decoding = seconds - first }
    tokens.append(token)
  }

  /// Tokens per second behind the first.
  public var rate: Double {
    decoding > 0 ? Double(tokens.count - 1) / decoding : 0
  }
}
