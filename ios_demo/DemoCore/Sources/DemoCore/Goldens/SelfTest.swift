/// Replays goldens on this device's engine.
public struct SelfTest: Sendable {
  public let golden: Golden
  private let suppressed: [Int]

  public init(_ golden: Golden, tokens: Tokens) {
    self.golden = golden
    suppressed = tokens.suppress
  }

  /// What came out: the comparison, and the tokens that the engine chose.
  public struct Outcome: Sendable {
    public let name: String
    public let modality: GoldenEntry.Modality
    public let chosen: [Int]
    public let comparison: Comparison
  }

  /// - Throws: what the engine throws, and `CancellationError`.
  public func run(on engine: any Engine) async throws -> Outcome {
    var chosen: [Int] = []
    var found: [[Double]] = []
    try await engine.reset()
    var logits = try await engine.prefill(golden.inputs)
    for (step, token) in golden.tokens.enumerated() {
      guard (golden.topIds[step] + suppressed).allSatisfy(logits.indices.contains) else {
        throw UserError("golden \(golden.name) is of a model with more tokens: export the bundle again")
      }
      chosen.append(greedy(logits, suppressed: suppressed))
      found.append(golden.topIds[step].map { Double(logits[$0]) })
      guard step + 1 < golden.tokens.count else { break }
      logits = try await engine.decode(token)
    }
    let comparison = Comparison(golden, chosen: chosen, found: found)
    return Outcome(name: golden.name, modality: golden.modality, chosen: chosen, comparison: comparison)
  }
}
