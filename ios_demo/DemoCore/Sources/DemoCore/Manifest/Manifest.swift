/// Part of a manifest. Decoding is strict: `ManifestReader` refuses keys that no property stands for, so that a change
/// of the schema cannot pass unseen. Property names are the schema's in camel case.
public protocol Record: Decodable, Sendable, Equatable {}

/// All that an app needs to know of a bundle: `runtime/manifest.py`, field for field.
public struct Manifest: Record {
  public let formatVersion: Int
  public let target: String
  public let source: Source
  public let recipe: Recipe
  /// By format: `coreml`, `executorch`, `onnx`, `coreai`.
  public let artifacts: [String: Artifact]
  public let files: [File]
  public let tokens: Tokens
  public let sampling: Sampling
  public let limits: Limits
  /// Nil: see `undescribed`.
  public let dialogue: Dialogue?
  /// Part of the chat template that `dialogue` leaves out, `all` or `tools`: why.
  public let undescribed: [String: String]?
  public let tensors: [TensorDigest]
  public let goldens: [GoldenEntry]
  /// Package to version.
  public let tools: [String: String]
  public let verification: Verification?
}

/// The checkpoint that everything was made from.
public struct Source: Record {
  public let name: String
  public let revision: String?
  public let sha256: String
  public let modelType: String
  public let licence: String
}

/// How the weights were quantized.
public struct Recipe: Record {
  public let name: String
  public let description: String
  public let bitsPerWeight: Double
  public let kvBits: Int
}

/// One file of the bundle.
public struct File: Record {
  /// Relative to the bundle, with forward slashes.
  public let path: String
  /// Bytes.
  public let size: Int
  public let sha256: String
}

/// Ids with a meaning of their own.
public struct Tokens: Record {
  public let bos: Int
  public let eos: [Int]
  public let pad: Int
  /// Never to be sampled.
  public let suppress: [Int]
  public let image: Int?
  public let audio: Int?
  public let video: Int?
  public let beginImage: Int?
  public let endImage: Int?
  public let beginAudio: Int?
  public let endAudio: Int?
}

/// The checkpoint's own generation defaults.
public struct Sampling: Record {
  public var doSample: Bool
  public var temperature: Double
  /// 0: all tokens.
  public var topK: Int
  public var topP: Double

  public init(doSample: Bool, temperature: Double, topK: Int, topP: Double) {
    self.doSample = doSample
    self.temperature = temperature
    self.topK = topK
    self.topP = topP
  }
}

/// How much goes in.
public struct Limits: Record {
  /// Positions.
  public let context: Int
  public let slidingWindow: Int
  /// Per image.
  public let imageSoftTokens: Int?
  /// Per clip.
  public let audioSoftTokens: Int?
  /// Bytes: weights as an engine holds them, and the cache at the full context.
  public let minimumMemory: Int
}
