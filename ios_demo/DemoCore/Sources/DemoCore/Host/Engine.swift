/// What every engine can do: take a prompt, hand out logits, go on token by token. One sequence.
public protocol Engine: Actor {
  /// As benchmarks and self-tests call it.
  nonisolated var name: String { get }
  /// Positions there is room for.
  nonisolated var context: Int { get }
  /// Positions in the cache so far.
  var position: Int { get }

  /// How often `reset` was called: whoever goes on with a sequence sees whether somebody else has begun another one.
  var resets: Int { get }

  /// Forgets the sequence.
  func reset() async throws

  /// Forgets what stands at an earlier position and behind it, if what is needed from before is still there.
  ///
  /// - Returns: whether it did; otherwise all stays.
  func rewind(to position: Int) -> Bool

  /// Appends positions; returns the logits after the last one. May be called again: a second turn.
  ///
  /// - Throws: `UserError` if there is no room for so many; what was there before stays.
  func prefill(_ inputs: ModelInputs) async throws -> [Float]
}

extension Engine {
  /// Appends one token; returns the logits after it.
  public func decode(_ token: Int) async throws -> [Float] {
    try await prefill(ModelInputs(tokens: [token]))
  }

  /// - Throws: `UserError` if so many more positions do not fit.
  public func requireRoom(for count: Int) throws {
    guard position + count <= context else {
      throw UserError(
        "\(position + count) positions do not fit the context of \(context): shorten the prompt, or export "
          + "the bundle again with a larger context")
    }
  }
}
