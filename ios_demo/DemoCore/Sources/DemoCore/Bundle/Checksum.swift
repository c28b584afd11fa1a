import Foundation

#if canImport(CryptoKit)
  import CryptoKit
#endif

/// A sha256 as its bytes come.
public struct Checksum {
  #if canImport(CryptoKit)
    private var hash = CryptoKit.SHA256()
  #else
    private var hash = SHA256()
  #endif

  public init() {}

  public mutating func update(_ data: Data) {
    hash.update(data: data)
  }

  /// Hexadecimal.
  public func finish() -> String {
    hash.finalize().map { byte in (byte < 16 ? "0" : "") + String(byte, radix: 16) }.joined()
  }

  /// Of a file, some of it at a time.
  ///
  /// - Throws: what reading throws, and `CancellationError`.
  public static func of(_ path: URL) throws -> String {
    let file = try FileHandle(forReadingFrom: path)
    defer { try? file.close() }
    var checksum = Checksum()
    while let data = try file.read(upToCount: 1 << 20), !data.isEmpty {
      try Task.checkCancellation()
      checksum.update(data)
    }
    return checksum.finish()
  }
}
