import Foundation

/// A file of named arrays: eight bytes with the length of a JSON header, the header, and the arrays' bytes.
public struct Safetensors: Sendable {
  private struct Entry: Decodable {
    let dtype: String
    let shape: [Int]
    let dataOffsets: [Int]
  }

  private let data: Data
  private let start: Int
  private let entries: [String: Entry]

  /// - Throws: `UserError` if the file is missing or damaged.
  public init(_ path: URL) throws {
    do {
      data = try Data(contentsOf: path, options: .alwaysMapped)
      guard data.count >= 8 else { throw CocoaError(.fileReadCorruptFile) }
      let length = data.numbers(at: 0, count: 1, as: UInt64.self)[0]
      guard length <= data.count - 8 else { throw CocoaError(.fileReadCorruptFile) }
      start = 8 + Int(length)
      entries = try Self.header(data[8..<start])
    } catch {
      throw UserError("\(path.lastPathComponent) is no safetensors file: export the bundle again")
    }
  }

  private static func header(_ bytes: Data) throws -> [String: Entry] {
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    var fields = try decoder.decode([String: JSONValue].self, from: bytes)
    fields["__metadata__"] = nil
    return try decoder.decode([String: Entry].self, from: JSONEncoder().encode(fields))
  }

  public func contains(_ name: String) -> Bool {
    entries[name] != nil
  }

  /// float32, int64 or bool; whole numbers become the Float that they are.
  ///
  /// - Throws: `UserError` if there is none of this name, or of another dtype.
  public func tensor(_ name: String) throws -> Tensor {
    guard let entry = entries[name] else { throw UserError("no array \(name) in the goldens: export the bundle again") }
    let count = entry.shape.reduce(1, *)
    let values: [Float]
    switch entry.dtype {
    case "F32": values = try numbers(entry, count, as: Float.self)
    case "I64": values = try numbers(entry, count, as: Int64.self).map(Float.init)
    case "BOOL": values = try numbers(entry, count, as: UInt8.self).map(Float.init)
    default: throw UserError("array \(name) of the goldens is \(entry.dtype): update the app")
    }
    return Tensor(entry.shape, values)
  }

  private func numbers<Number: BitwiseCopyable>(_ entry: Entry, _ count: Int, as type: Number.Type) throws -> [Number] {
    let begin = start + (entry.dataOffsets.first ?? 0)
    guard begin >= start, begin + count * MemoryLayout<Number>.size <= data.count else {
      throw UserError("the goldens are cut short: export the bundle again")
    }
    return data.subdata(in: begin..<begin + count * MemoryLayout<Number>.size).numbers(at: 0, count: count, as: type)
  }
}
