import Foundation

/// Reads `manifest.json` as strictly as Python does.
public enum ManifestReader {
  public static let file = "manifest.json"
  /// Of the schema that this app knows.
  public static let formatVersion = 2
  /// Bytes; that of the 12B has a tenth.
  static let largest = 4 << 20

  /// From the bundle's folder.
  ///
  /// - Throws: `UserError` if the folder is no bundle, or see `decode`.
  public static func read(bundle: URL) throws -> Manifest {
    let path = bundle.appending(path: file)
    guard let data = try? Data(contentsOf: path) else {
      throw UserError(
        "\(bundle.lastPathComponent) holds no \(file): choose a folder that `make export` wrote under dist/")
    }
    return try decode(data)
  }

  /// - Throws: `UserError` if it is larger than allowed, of another version's schema, has keys that this app does not
  ///   know or values out of their range, or names something outside the bundle.
  public static func decode(_ data: Data) throws -> Manifest {
    guard data.count <= largest else {
      throw UserError("\(file) has \(data.count) bytes, at most \(largest) are read: export the bundle again")
    }
    do {
      let found = try JSONDecoder().decode(JSONValue.self, from: data)
      try requireVersion(found)
      let decoder = JSONDecoder()
      decoder.keyDecodingStrategy = .convertFromSnakeCase
      let manifest = try decoder.decode(Manifest.self, from: data)
      try requireKnownKeys(found, manifest)
      try manifest.validate()
      return manifest
    } catch let error as DecodingError {
      throw UserError("\(file): \(error.place); export the bundle again")
    }
  }

  /// Before all else: a newer schema may differ in anything.
  private static func requireVersion(_ found: JSONValue) throws {
    guard case .object(let fields) = found, case .number(let version)? = fields["format_version"],
      let version = Int(exactly: version)
    else {
      throw UserError("\(file) says no format_version: export the bundle again")
    }
    if version > formatVersion {
      throw UserError(
        "\(file) was made by a newer version (format_version \(version), this app reads "
          + "\(formatVersion)): update the app")
    }
    if version < formatVersion {
      throw UserError("\(file): format_version \(version), this app reads \(formatVersion); export the bundle again")
    }
  }

  private static func requireKnownKeys(_ found: JSONValue, _ manifest: Manifest) throws {
    if let path = unknownKey(in: found, of: manifest) {
      throw UserError("\(file): \(path) is unknown to this app: update it, or export the bundle again")
    }
  }
}

extension DecodingError {
  /// Where it is, and what.
  var place: String {
    let (context, problem): (Context?, String) =
      switch self {
      case .keyNotFound(let key, let context): (context, "\(key.stringValue) is missing")
      case .typeMismatch(_, let context), .valueNotFound(_, let context), .dataCorrupted(let context):
        (context, context.debugDescription)
      @unknown default: (nil, "not readable")
      }
    let path = context?.codingPath.map { $0.intValue.map(String.init) ?? $0.stringValue } ?? []
    return path.isEmpty ? problem : "\(path.joined(separator: ".")): \(problem)"
  }
}
