import Foundation

/// All goldens of a modality together, by the figures that `runtime/checks/goldens.py` judges.
public struct Judgement: Sendable, Equatable {
  /// Goldens with other tokens.
  public let unequal: Int
  /// Nats, over all steps: a golden's counts by its length.
  public let meanKL: Double
  /// The largest of a golden.
  public let rms: Double
  public let bounds: Bounds

  public init(_ comparisons: [Comparison], _ bounds: Bounds) {
    let kl = comparisons.flatMap(\.kl)
    unequal = comparisons.filter { !$0.errors.isEmpty }.count
    meanKL = kl.reduce(0, +) / Double(max(kl.count, 1))
    rms = comparisons.map(\.rms).max() ?? 0
    self.bounds = bounds
  }

  public var passed: Bool { faults.isEmpty }

  /// For people: each figure that is beyond its bound. No number is within any.
  public var faults: [String] {
    var faults: [String] = []
    if unequal > bounds.unequal { faults.append("\(unequal) with other tokens, \(bounds.unequal) may have them") }
    if !(meanKL <= bounds.meanKL) { faults.append("the mean KL is above \(short(bounds.meanKL))") }
    if !(rms <= bounds.rms) { faults.append("the rms is above \(short(bounds.rms))") }
    return faults
  }

  /// For people: all figures.
  public var summary: String { "mean KL \(short(meanKL)), rms \(short(rms))" }
}

/// Two digits.
private func short(_ value: Double) -> String {
  String(format: "%.1e", value)
}
