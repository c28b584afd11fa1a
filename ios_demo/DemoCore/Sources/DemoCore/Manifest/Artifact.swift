/// What the bundle holds for one format.
public struct Artifact: Record {
  /// By role: `chunk_00.decode`, `head_00`, `vision`, `speech`, ...
  public let programs: [String: Program]
  public let cache: CacheMemory
  /// Of keys and values by layer, where the cache is int8.
  public let kvScales: [String: [Double]]?
  /// Of Core ML.
  public let host: Host?
  /// By the engine's backend, what to load it with; paths are relative to a folder that the app may write.
  public let loadOptions: [String: [String: LoadOption]]?
}

/// One graph of an artifact.
public struct Program: Record {
  public let file: String
  public let inputs: [Port]
  public let outputs: [Port]
  public let function: String?
  public let states: [Port]?
}

/// An input or output of a program.
public struct Port: Record {
  public let name: String
  public let dtype: String
  public let shape: [Axis]
}

/// Of a shape: a length, or the name of what varies.
public enum Axis: Decodable, Sendable, Equatable {
  case fixed(Int)
  case named(String)

  public init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    if let length = try? container.decode(Int.self) {
      self = .fixed(length)
    } else {
      self = .named(try container.decode(String.self))
    }
  }

  /// Nil where it varies.
  public var length: Int? {
    if case .fixed(let length) = self { length } else { nil }
  }
}

public enum LoadOption: Decodable, Sendable, Equatable {
  case flag(Bool)
  case text(String)

  public init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    if let flag = try? container.decode(Bool.self) {
      self = .flag(flag)
    } else {
      self = .text(try container.decode(String.self))
    }
  }
}

/// Bytes of keys and values: full layers grow with the positions, rings of sliding layers do not.
public struct CacheMemory: Record {
  public let fixed: Int
  public let perPosition: Int

  public func at(_ positions: Int) -> Int {
    fixed + perPosition * positions
  }
}
