/// Numbers in row-major order. Whole ones are held as Float too: positions stay below 2^24, where a Float is exact.
public struct Tensor: Sendable, Equatable {
  public let shape: [Int]
  public var values: [Float]

  public init(_ shape: [Int], _ values: [Float]) {
    precondition(shape.reduce(1, *) == values.count, "\(values.count) values do not have the shape \(shape)")
    self.shape = shape
    self.values = values
  }

  public init(_ shape: [Int], repeating value: Float) {
    self.init(shape, Array(repeating: value, count: shape.reduce(1, *)))
  }

  /// Of the last axis.
  public var rowLength: Int { shape.last ?? 1 }

  /// Row by row along the last axis.
  public func rows(_ range: Range<Int>) -> ArraySlice<Float> {
    values[range.lowerBound * rowLength..<range.upperBound * rowLength]
  }
}

extension Tensor {
  /// Writes rows over those that are wanted, one after another.
  ///
  /// - Throws: `UserError` if there are more or fewer.
  public mutating func place(_ rows: [Float], where wanted: [Bool]) throws {
    let places = wanted.indices.filter { wanted[$0] }
    guard places.count * rowLength == rows.count else {
      throw UserError(
        "\(places.count) placeholders stand for \(rows.count / rowLength) soft tokens: leave out marks "
          + "such as <|image|>")
    }
    for (index, place) in places.enumerated() {
      let row = rows[index * rowLength..<(index + 1) * rowLength]
      values.replaceSubrange(place * rowLength..<(place + 1) * rowLength, with: row)
    }
  }
}
