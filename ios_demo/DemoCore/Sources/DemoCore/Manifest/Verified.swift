/// A weight as it left the quantizer.
public struct TensorDigest: Record {
  public let name: String
  public let shape: [Int]
  public let dtype: String
  public let group: Int?
  public let sha256: String
  public let scalesSha256: String?
}

/// Where a golden lies in the bundle.
public struct GoldenEntry: Record {
  public enum Modality: String, Decodable, Sendable, CaseIterable {
    case text, image, audio, long
  }

  public let name: String
  public let modality: Modality
  public let file: String
  public let tensors: String
  public let reference: ReferenceKind?
}

/// Transformers' model in memory, or loaded a layer at a time.
public enum ReferenceKind: String, Decodable, Sendable {
  case none, whole, streamed
}

/// What was measured when the bundle was made.
public struct Verification: Record {
  public let ran: [String]
  /// Name of a check to the reason.
  public let skipped: [String: String]
  public let reference: ReferenceKind?
  public let measures: [Measure]
  public let passed: Bool
}

/// One figure of a verification, and its gate.
public struct Measure: Record {
  public let check: String
  public let engine: String?
  public let modality: String?
  public let name: String
  public let value: Double
  public let bound: Double?
  public let atLeast: Bool?
  public let passed: Bool
  public let note: String?
  /// Pairs of a position and the value there.
  public let series: [[Double]]?
}
