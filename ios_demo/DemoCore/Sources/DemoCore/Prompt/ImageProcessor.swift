import Foundation

/// Pictures to patches, as the checkpoint's processor makes them (`docs/inputs.md`).
public struct ImageProcessor: Sendable {
  /// Pixels of a side.
  static let patch = 48
  /// Soft tokens of an image, at most.
  public let budget: Int

  public init(budget: Int) {
    self.budget = budget
  }

  /// Resized, cut into patches in the order of their rows.
  ///
  /// - Throws: `UserError` if the proportions are too extreme.
  public func callAsFunction(_ image: RGBImage) throws -> ImagePatches {
    let size = try fittingSize(width: image.width, height: image.height)
    let fitting = image.resized(width: size.width, height: size.height)
    let (columns, rows) = (size.width / Self.patch, size.height / Self.patch)
    var values: [Float] = []
    values.reserveCapacity(fitting.pixels.count)
    for row in 0..<rows {
      for column in 0..<columns { values += patch(of: fitting, row, column) }
    }
    let cells = (0..<rows).flatMap { y in (0..<columns).flatMap { x in [Float(x), Float(y)] } }
    let count = rows * columns
    return ImagePatches(
      patches: Tensor([count, Self.patch * Self.patch * 3], values), cells: Tensor([count, 2], cells))
  }

  /// Of a picture's longest side, as many pixels as are worth decoding: twice those that resizing leaves.
  ///
  /// - Throws: `UserError` if the proportions are too extreme.
  public func decodedSide(width: Int, height: Int) throws -> Int {
    let size = try fittingSize(width: width, height: height)
    return 2 * max(size.width, size.height)
  }

  private func patch(of image: RGBImage, _ row: Int, _ column: Int) -> [Float] {
    (0..<Self.patch).flatMap { y in
      let start = ((row * Self.patch + y) * image.width + column * Self.patch) * 3
      return image.pixels[start..<start + Self.patch * 3].map { Float($0) / 255 }
    }
  }

  /// The largest of these proportions, in multiples of a patch, that the budget allows
  /// (`get_aspect_ratio_preserving_size` of transformers).
  func fittingSize(width: Int, height: Int) throws -> (width: Int, height: Int) {
    let area = Double(budget * Self.patch * Self.patch)
    let factor = (area / Double(width * height)).squareRoot()
    var (columns, rows) = (Int(factor * Double(width)) / Self.patch, Int(factor * Double(height)) / Self.patch)
    if rows == 0 {
      (columns, rows) = (min(width / height, budget), 1)
    } else if columns == 0 {
      (columns, rows) = (1, min(height / width, budget))
    }
    guard columns > 0, rows > 0, columns * rows <= budget else {
      throw UserError("the image of \(width) x \(height) pixels is too long or too small: crop it")
    }
    return (columns * Self.patch, rows * Self.patch)
  }
}
