import Foundation

/// An engine on a golden, fed the golden's tokens, so that each position stands for itself. `runtime/metrics.py` and
/// `runtime/goldens.py` in Swift; `Judgement` says whether that will do.
public struct Comparison: Sendable, Equatable {
  /// A token may differ where the reference's two largest logits are closer than this.
  public static let nearTie = 0.25

  public let compared: Int
  /// Differences that the reference's gap excuses; positions count from the first generated token.
  public let nearTies: [Int]
  /// Differences that nothing excuses.
  public let errors: [Int]
  /// `[steps]`, nats, over the recorded top logits.
  public let kl: [Double]
  /// Of the recorded top logits, relative.
  public let rms: Double
  /// Difference of a recorded logit.
  public let largest: Double

  public var meanKL: Double { kl.reduce(0, +) / Double(max(kl.count, 1)) }

  /// - Parameters:
  ///   - chosen: the engine's greedy tokens, `[steps]`.
  ///   - found: its logits at the golden's `topIds`, `[steps, k]`.
  public init(_ golden: Golden, chosen: [Int], found: [[Double]]) {
    self.init(reference: golden.tokens, gaps: golden.gaps, chosen: chosen, wanted: golden.topLogits, found: found)
  }

  init(reference: [Int], gaps: [Double], chosen: [Int], wanted: [[Double]], found: [[Double]]) {
    let differences = reference.indices.filter { reference[$0] != chosen[$0] }
    compared = reference.count
    nearTies = differences.filter { gaps[$0] < Self.nearTie }
    errors = differences.filter { gaps[$0] >= Self.nearTie }
    kl = zip(wanted, found).map(klDivergence)
    rms = relativeRMS(wanted.flatMap { $0 }, found.flatMap { $0 })
    largest = zip(wanted.joined(), found.joined()).map { abs($0 - $1) }.max() ?? 0
  }
}

/// Nats: sum of P log(P / Q), P the reference (Kullback and Leibler 1951, eq. 2.2).
func klDivergence(_ reference: [Double], _ found: [Double]) -> Double {
  let (p, q) = (logSoftmax(reference), logSoftmax(found))
  return max(zip(p, q).reduce(0) { $0 + exp($1.0) * ($1.0 - $1.1) }, 0)
}

/// `sqrt(mean((x - r)^2) / mean(r^2))`
func relativeRMS(_ reference: [Double], _ found: [Double]) -> Double {
  let error = zip(reference, found).reduce(0) { $0 + ($1.1 - $1.0) * ($1.1 - $1.0) }
  return sqrt(error / reference.reduce(0) { $0 + $1 * $1 })
}

private func logSoftmax(_ values: [Double]) -> [Double] {
  let top = values.max() ?? 0
  let total = log(values.reduce(0) { $0 + exp($1 - top) })
  return values.map { $0 - top - total }
}
