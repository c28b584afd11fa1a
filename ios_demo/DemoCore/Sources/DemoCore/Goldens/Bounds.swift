/// How far an engine may be from the reference on all goldens of a modality together.
public struct Bounds: Sendable, Equatable {
  /// Nats, mean over all steps; `runtime/gates.py` has the same.
  public var meanKL = 5e-3
  /// Of the recorded top logits of a golden, relative.
  public var rms = 3e-2
  /// Goldens in which it may choose other tokens, as torch does.
  public var unequal = 0

  public init() {}

  /// Wider where the bundle's export found that torch needs it for the same arithmetic: bounds that somebody set for
  /// the export are not for this device.
  ///
  /// - Parameters:
  ///   - format: whose engine it is, `coreml` or `executorch`.
  public init(_ verification: Verification?, format: String, modality: GoldenEntry.Modality) {
    let engines = [format, "\(format)-evaluator"]
    let recorded = (verification?.measures ?? []).filter {
      $0.check == "goldens" && engines.contains($0.engine ?? "") && $0.modality == modality.rawValue
        && ($0.note ?? "").contains("in torch")
    }
    func bound(_ name: String) -> Double { recorded.first { $0.name == name }?.bound ?? 0 }
    meanKL = max(meanKL, bound("golden_kl_mean"))
    rms = max(rms, bound("golden_rms"))
    unequal = Int(exactly: bound("golden_greedy")) ?? 0
  }
}
