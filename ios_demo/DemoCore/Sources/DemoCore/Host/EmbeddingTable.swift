import Foundation

/// Rows of a table in files, mapped: only the pages of rows that are looked up are ever read.
public struct EmbeddingTable: Sendable {
  private let table: Table
  private let codes: Data
  private let scales: Data?

  /// - Throws: `UserError` if a file is missing or of another size than the table says.
  public init(_ table: Table, bundle: URL) throws {
    self.table = table
    codes = try Self.map(bundle.appending(path: table.codes), bytes: table.rows * table.columns * table.bits / 8)
    scales = try table.scales.map { name in
      try Self.map(bundle.appending(path: name), bytes: table.rows * table.columns / table.group * 2)
    }
  }

  private static func map(_ path: URL, bytes: Int) throws -> Data {
    guard let data = try? Data(contentsOf: path, options: .alwaysMapped), data.count == bytes else {
      throw UserError("\(path.lastPathComponent) is missing or cut short: export the bundle again")
    }
    return data
  }

  /// `[columns]`
  public func row(_ id: Int) -> [Float] {
    guard let scales else { return codes.numbers(at: id * table.columns, count: table.columns, as: Float.self) }
    let groups = table.columns / table.group
    let steps = scales.numbers(at: id * groups, count: groups, as: UInt16.self)
      .map { Float(Float16(bitPattern: UInt16(littleEndian: $0))) }
    let zero = Float(1 << (table.bits - 1))
    return rowCodes(id).enumerated().map { column, code in (Float(code) - zero) * steps[column / table.group] }
  }

  private func rowCodes(_ id: Int) -> [UInt8] {
    let width = table.columns * table.bits / 8
    let bytes = codes.numbers(at: id * width, count: width, as: UInt8.self)
    return table.bits == 4 ? bytes.flatMap { [$0 & 15, $0 >> 4] } : bytes
  }
}

extension Data {
  /// So many numbers from an index, counted in numbers, on.
  func numbers<Number: BitwiseCopyable>(at index: Int, count: Int, as type: Number.Type) -> [Number] {
    let size = MemoryLayout<Number>.size
    return withUnsafeBytes { bytes in
      (index..<index + count).map { bytes.loadUnaligned(fromByteOffset: $0 * size, as: type) }
    }
  }
}
