import Foundation

/// Speed of an engine: prompts of several lengths, and tokens decoded behind some of them, in rounds.
public struct Benchmark: Sendable {
  /// What is asked for; the defaults of `python -m runtime bench`.
  public struct Work: Sendable {
    /// Positions of prompts.
    public var lengths = [16, 128, 512, 1024]
    /// Of them those that are decoded behind.
    public var contexts = [128, 1024]
    /// Decoded.
    public var tokens = 16
    public var repeats = 5
    /// Rounds left out.
    public var warmup = 1

    public init() {}

    /// Without what the engine has no room for.
    func fitting(_ context: Int) -> Work {
      var work = self
      work.lengths = lengths.filter { $0 + tokens <= context }
      work.contexts = contexts.filter(work.lengths.contains)
      return work
    }
  }

  /// A prompt of so many tokens from the start of a sequence, and decoding behind it.
  public struct TextSpeed: Sendable {
    public let length: Int
    /// Seconds from handing over the tokens until the logits of the first new one.
    public let firstToken: Figure
    /// Tokens per second; nil where it was not asked for at this length.
    public let decode: Figure?

    /// Tokens per second.
    public var prefill: Figure { Figure(firstToken.values.map { Double(length) / $0 }) }
  }

  public let work: Work
  private let engine: any Engine
  private let tokens: [Int]

  /// - Parameter tokens: text that prompts are taken from, over and over.
  public init(_ engine: any Engine, tokens: [Int], work: Work = Work()) {
    self.work = work.fitting(engine.context)
    self.engine = engine
    self.tokens = tokens
  }

  /// - Parameter progress: told after each round how many are done, of how many.
  /// - Throws: what the engine throws, and `CancellationError`.
  public func run(progress: @Sendable (Int, Int) -> Void) async throws -> [TextSpeed] {
    var prefills: [Int: [Double]] = [:]
    var decodes: [Int: [Double]] = [:]
    for round in 0..<work.warmup + work.repeats {
      for length in work.lengths {
        let (prefill, decode) = try await measure(length)
        guard round >= work.warmup else { continue }
        prefills[length, default: []].append(prefill)
        if let decode { decodes[length, default: []].append(decode) }
      }
      progress(round + 1, work.warmup + work.repeats)
    }
    return work.lengths.map { length in
      TextSpeed(length: length, firstToken: Figure(prefills[length] ?? [0]), decode: decodes[length].map(Figure.init))
    }
  }

  /// Seconds of the prefill, and tokens per second behind it.
  private func measure(_ length: Int) async throws -> (prefill: Double, decode: Double?) {
    try Task.checkCancellation()
    try await engine.reset()
    let prompt = ModelInputs(tokens: (0..<length).map { tokens[$0 % tokens.count] })
    let prefill = try await seconds { _ = try await engine.prefill(prompt) }
    guard work.contexts.contains(length) else { return (prefill, nil) }
    let decode = try await seconds {
      for step in 0..<work.tokens { _ = try await engine.decode(tokens[(length + step) % tokens.count]) }
    }
    return (prefill, Double(work.tokens) / decode)
  }
}

/// How long something takes.
public func seconds(
  isolation: isolated (any Actor)? = #isolation, _ work: () async throws -> Void
) async rethrows -> Double {
  let clock = ContinuousClock()
  let begun = clock.now
  try await work()
  return (clock.now - begun).seconds
}

extension Duration {
  public var seconds: Double {
    Double(components.seconds) + Double(components.attoseconds) * 1e-18
  }
}
